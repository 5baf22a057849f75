"""How the stack's own HTTP servers are run."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp

from wearon_local.standins.faults import ClosableConnections


def serve(app: ASGIApp, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; answers under way get one second to finish."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=ClosableConnections,
        log_level="warning",
        # Longer than clients keep a connection: closing one as it is used again would look like a fault.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=1,
        backlog=1024,
    )
