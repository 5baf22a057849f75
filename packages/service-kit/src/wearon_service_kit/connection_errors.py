"""Why a connection failed, in words an operator can act on, whichever client raised the error."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator


def why_unreachable(error: BaseException) -> str:
    """The cause at the bottom of `error`: host name, refusal, certificate, silence; else its type's name.

    Clients wrap what the socket said ("All connection attempts failed"), and the wrapping alone does not tell
    a wrong host name from an expired certificate.
    """
    causes = list(_causes(error))
    told = next(filter(None, map(_told_by, causes)), None)
    if told is None and any(isinstance(cause, TimeoutError) for cause in causes):
        told = "no answer within the time limit"
    return told or type(error).__name__


def _told_by(cause: BaseException) -> str | None:
    match cause:
        case socket.gaierror():
            return "the host name is not known (DNS)"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {cause.reason or type(cause).__name__}"
        case ConnectionRefusedError():
            return "the connection was refused: nothing listens there"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was closed by the other side"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all that led to it, the outermost first; each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__context__, cause.__cause__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
