"""The application's own rows: accounts with their credits, sessions, and what was taken and given back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

BillingMode = Literal["absorb_mode", "resell_mode"]
Row = dict[str, Any]


class AppTables:
    """Writes and reads them as the app does, through `query`: a statement and its parameters to its rows."""

    def __init__(self, query: Callable[[str, Sequence[object]], list[Row]]) -> None:
        self._query = query

    # Accounts

    def create_user(self, *, credits: int = 10) -> UUID:
        """A user with a balance."""
        row = self._one(
            "insert into user_credits (user_id, balance, total_earned) values (%s, %s, %s) returning user_id",
            uuid4(),
            credits,
            credits,
        )
        return UUID(str(row["user_id"]))

    def create_store(self, *, credits: int = 10, billing_mode: BillingMode = "absorb_mode") -> UUID:
        """A store with a balance; with none left its try-ons are overage."""
        store_id = uuid4()
        self._one(
            "insert into stores (id, billing_mode) values (%s, %s) returning id", store_id, billing_mode
        )
        self._one(
            "insert into store_credits (store_id, balance, total_purchased) values (%s, %s, %s) returning 1",
            store_id,
            credits,
            credits,
        )
        return store_id

    def create_shopper(self, store_id: UUID, *, credits: int = 10) -> str:
        """A shopper of a store in resell_mode; returns the e-mail address."""
        email = f"{uuid4().hex[:12]}@shopper.example"
        self._one(
            "insert into store_shopper_credits (store_id, shopper_email, balance, total_purchased)"
            " values (%s, %s, %s, %s) returning 1",
            store_id,
            email,
            credits,
            credits,
        )
        return email

    def balance(self, owner_id: UUID, shopper_email: str | None = None) -> int:
        """Of a user, of a store, or of a store's shopper."""
        if shopper_email is not None:
            query = "select balance from store_shopper_credits where store_id = %s and shopper_email = %s"
            return int(self._one(query, owner_id, shopper_email)["balance"])
        query = """select balance from user_credits where user_id = %s
                   union all select balance from store_credits where store_id = %s"""
        return int(self._one(query, owner_id, owner_id)["balance"])

    # Sessions

    def take_from_user(self, user_id: UUID, session_id: UUID) -> None:
        """One credit. Raises ValueError if the balance does not suffice."""
        taken = self._one("select deduct_credits(%s, 1, %s) as ok", user_id, f"Virtual try-on {session_id}")
        if not taken["ok"]:
            raise ValueError(f"user {user_id} has no credit left")

    def take_from_store(
        self,
        store_id: UUID,
        session_id: UUID,
        request_id: str,
        *,
        shopper_email: str | None = None,
        credits: int = 1,
    ) -> None:
        """From the shopper if one is named, else from the store, which may be overage.

        Raises ValueError if the balance does not suffice.
        """
        text = f"Virtual try-on {session_id}"
        if shopper_email is None:
            query = "select deduct_store_credits(%s, %s, %s, %s) as ok"
            taken = self._one(query, store_id, credits, request_id, text)
        else:
            query = "select deduct_store_shopper_credits(%s, %s, %s, %s, %s) as ok"
            taken = self._one(query, store_id, shopper_email, credits, request_id, text)
        if not taken["ok"]:
            raise ValueError(f"store {store_id}: no credit left")

    def add_b2c_session(
        self,
        user_id: UUID,
        session_id: UUID,
        *,
        urls: Sequence[str],
        prompt: str = "",
        status: str = "queued",
        age: float = 0,
    ) -> None:
        """The row alone, as if it had been made `age` seconds ago."""
        self._one(
            """insert into generation_sessions (id, user_id, model_image_url, outfit_image_url, accessories,
                                                prompt_system, prompt_user, status, created_at)
               values (%s, %s, %s, %s, %s, '', %s, %s, now() - make_interval(secs => %s)) returning id""",
            session_id,
            user_id,
            urls[0],
            urls[1] if len(urls) > 1 else None,
            Jsonb(list(urls[2:])) if len(urls) > 2 else None,
            prompt,
            status,
            age,
        )

    def add_b2b_session(
        self,
        store_id: UUID,
        session_id: UUID,
        *,
        request_id: str | None,
        shopper_email: str | None,
        urls: Sequence[str],
        prompt: str = "",
        status: str = "queued",
        age: float = 0,
    ) -> None:
        """The row alone, as if it had been made `age` seconds ago."""
        self._one(
            """insert into store_generation_sessions (id, store_id, shopper_email, request_id,
                                                      model_image_url, outfit_image_url, prompt_system,
                                                      prompt_user, status, created_at)
               values (%s, %s, %s, %s, %s, %s, '', %s, %s, now() - make_interval(secs => %s))
               returning id""",
            session_id,
            store_id,
            shopper_email,
            request_id,
            urls[0],
            urls[1] if len(urls) > 1 else None,
            prompt,
            status,
            age,
        )

    def _one(self, query: str, *parameters: object) -> Row:
        rows = self._query(query, parameters)
        if len(rows) != 1:
            raise LookupError(f"{len(rows)} rows for {parameters}")
        return rows[0]
