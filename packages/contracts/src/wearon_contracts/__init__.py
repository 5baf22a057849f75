"""Messages, session states and error codes that the WearOn services and their producers agree on."""
