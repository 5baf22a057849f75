"""Celery worker that turns a queued try-on into a finished picture."""
