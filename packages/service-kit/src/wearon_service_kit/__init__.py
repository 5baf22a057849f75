"""What every WearOn service needs once: settings, logs, health and metrics, Redis, safe image download."""
