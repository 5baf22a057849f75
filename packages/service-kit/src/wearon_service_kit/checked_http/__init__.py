"""HTTP to addresses that a stranger chose: the URL is checked, and each address where it is dialled."""
