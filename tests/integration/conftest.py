"""What the integration tests share."""

from tests.integration.database import ledger, ledger_server

__all__ = ["ledger", "ledger_server"]
