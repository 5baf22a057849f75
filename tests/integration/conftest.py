"""What the integration tests share."""

from integration.database import ledger, ledger_server

__all__ = ["ledger", "ledger_server"]
