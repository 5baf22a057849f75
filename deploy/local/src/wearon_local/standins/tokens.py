"""The JWTs of a Supabase project: API keys, users' sessions, signed Storage URLs; HS256 with one secret."""

from __future__ import annotations

import time
from typing import Any, Final
from uuid import UUID

import jwt

_ISSUER: Final = "wearon-local"
_TEN_YEARS: Final = 10 * 365 * 24 * 3600


def api_key(secret: str, role: str) -> str:
    """The key of `anon` or `service_role`."""
    now = int(time.time())
    return _sign(secret, {"iss": _ISSUER, "role": role, "iat": now, "exp": now + _TEN_YEARS})


def user_token(secret: str, user_id: UUID, *, seconds: int = 3600) -> str:
    """What a signed-in user's browser sends: auth.uid() is `user_id`."""
    now = int(time.time())
    claims = {"iss": _ISSUER, "role": "authenticated", "aud": "authenticated", "sub": str(user_id)}
    return _sign(secret, {**claims, "iat": now, "exp": now + seconds})


def object_token(secret: str, bucket: str, path: str, *, seconds: int) -> str:
    """The token of a signed URL; negative `seconds`: one that has expired."""
    now = int(time.time())
    return _sign(secret, {"url": f"{bucket}/{path}", "iat": now, "exp": now + seconds})


def read(secret: str, token: str) -> dict[str, Any]:
    """The claims of `token`. Raises jwt.ExpiredSignatureError or another jwt.InvalidTokenError."""
    return jwt.decode(token, secret, algorithms=["HS256"], options={"verify_aud": False})


def _sign(secret: str, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, secret, algorithm="HS256")
