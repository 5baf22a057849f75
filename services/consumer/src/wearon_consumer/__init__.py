"""Crash-safe bridge from the producer's Redis list to Celery."""
