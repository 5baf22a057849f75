"""The studio: a page on which a person tries the whole backend, and what the page asks."""
