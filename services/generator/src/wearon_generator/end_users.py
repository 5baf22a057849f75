"""Who a picture is made for, as the provider may know it: a keyed hash, never an id or an address."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from wearon_contracts.tasks import Channel, GenerationTask

_PURPOSE: Final = b"wearon safety_identifier 1"


def hash_key(secret: str) -> bytes:
    """The key of the hashes, derived from `secret`, which nobody can tell from it."""
    return hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()


def end_user(key: bytes, task: GenerationTask, shopper_email: str | None) -> str:
    """64 hexadecimal digits that stand for the person: a b2c user, or a shopper of one store.

    The same person gives the same digits; without `key` nobody can go back, nor try out addresses. A shopper
    whose address is not known counts as somebody new with each session, so that a block of one person never
    stops a whole store.
    """
    if task.channel is Channel.B2C:
        person = f"user {task.owner_id}"
    elif shopper_email:
        person = f"store {task.owner_id} shopper {shopper_email.strip().lower()}"
    else:
        person = f"store {task.owner_id} session {task.session_id}"
    return hmac.new(key, person.encode(), hashlib.sha256).hexdigest()
