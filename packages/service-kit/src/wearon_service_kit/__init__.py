"""What every WearOn service needs once: settings, logs, health and metrics, Redis, safe image download."""

__version__ = "0.2.0"
"""In the code, because the images hold the code alone and no installed package that could be asked."""
