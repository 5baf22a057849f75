"""What must never reach a log: keys, tokens, passwords, signed URLs, pictures.

`redact` is pure and runs on every rendered log line, so each rule sits behind a substring test that is an
order of magnitude cheaper than its regular expression, and no rule takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

_HIDDEN: Final = "***"
_SHORTEST_SECRET: Final = 8  # a shorter one would blot out ordinary words

# OpenAI (sk-..., sk-proj-...) and Supabase (sb_secret_...) keys.
_API_KEY: Final = re.compile(r"\b(sk-|sb_secret_)[A-Za-z0-9_-]{6,}")
# As Standard Webhooks writes it: whsec_ and base64.
_WEBHOOK_SECRET: Final = re.compile(r"\b(whsec_)[A-Za-z0-9+/=]{6,}")
# A JSON Web Token: base64url of '{"' begins with eyJ. Also cut off in the middle.
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){0,2}")
_BEARER: Final = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
# user:password@ of any URL. An @ after the first slash belongs to the path.
_USERINFO: Final = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/?#\"'<>]*@", re.IGNORECASE)
# The whole query of a web URL: every signing scheme puts its secret there, under a name of its own.
# A URL without one matches too, so that none of its characters is looked at a second time.
_URL_QUERY: Final = re.compile(r"(\bhttps?://[^\s?#\"'<>\\]*+)(\?[^\s\"'<>\\]+)?", re.IGNORECASE)
# name=value outside a URL (a bare query string, a form body), percent-encoded '=' included.
_PARAMETER: Final = re.compile(
    r"(?:\b|(?<=%3F)|(?<=%26))((?:x-amz-|x-goog-)?(?:signature|credential|security-token)|(?:access_|refresh_|auth_)?token|sig"
    r"|api_?key|password|secret)(=|%3D)[^\s&;,\"'<>\\]+",
    re.IGNORECASE,
)
# "name": "value" in JSON or in the repr of a dict, quotes escaped or not.
_MEMBER: Final = re.compile(
    r"([\"'](?:[\w-]*(?:password|secret|api-?_?key|authorization)|(?:access_|refresh_)?token|signature)"
    r"\\?[\"']\s*:\s*b?\\?[\"'])[^\"'\\]+",
    re.IGNORECASE,
)
# In small letters; one of them is in each name that _MEMBER looks for.
_MEMBER_NAMES: Final = ("password", "secret", "token", "signature", "authorization", "key")
_DATA_URL: Final = re.compile(r"(data:[\w.+/-]*;base64,)[A-Za-z0-9+/=_-]{16,}")
_BLOB: Final = re.compile(r"[A-Za-z0-9+/_-]{256,}={0,2}")


def redact(text: str) -> str:
    """`text` without secrets. Idempotent; ordinary text comes back unchanged.

    Hidden: keys of OpenAI and Supabase, secrets of webhooks, bearer tokens, JSON Web Tokens, user and
    password of any URL, the query of any http(s) URL, values of parameters and JSON members with a secret's
    name. Base64 of 256 characters or more and data: URLs are replaced by their length.
    """
    if "sk-" in text or "sb_secret_" in text:
        text = _API_KEY.sub(rf"\1{_HIDDEN}", text)
    if "whsec_" in text:
        text = _WEBHOOK_SECRET.sub(rf"\1{_HIDDEN}", text)
    if "eyJ" in text:
        text = _JWT.sub(_HIDDEN, text)
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\1{_HIDDEN}", text)
    if "://" in text:
        if "@" in text:
            text = _USERINFO.sub(rf"\1{_HIDDEN}@", text)
        if "?" in text:
            text = _URL_QUERY.sub(lambda url: f"{url[1]}?{_HIDDEN}" if url[2] else url[1], text)
    if "=" in text or "%3" in text:
        text = _PARAMETER.sub(rf"\1\2{_HIDDEN}", text)
    lower = text.lower()
    if any(name in lower for name in _MEMBER_NAMES):
        text = _MEMBER.sub(rf"\1{_HIDDEN}", text)
    if "base64," in text:
        text = _DATA_URL.sub(lambda match: f"{match[1]}({len(match[0])} characters)", text)
    if len(text) > 256:
        text = _BLOB.sub(lambda match: f"({len(match[0])} characters)", text)
    return text


def hide(secrets: Iterable[str]) -> Callable[[str], str]:
    """`redact` that also hides these, wherever they appear and whatever they look like."""
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def without_secrets(text: str) -> str:
        for secret in known:
            if secret in text:
                text = text.replace(secret, _HIDDEN)
        return redact(text)

    return without_secrets
