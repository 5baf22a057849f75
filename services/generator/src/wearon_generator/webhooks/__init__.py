"""Tells webhook endpoints how sessions stand: from the outbox in the database to a signed request."""
