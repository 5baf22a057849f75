"""`python -m wearon_sizing`: the service, or with a word after it one of the commands of `wearon-sizing`."""

from __future__ import annotations

import sys

from wearon_sizing.cli import main

if __name__ == "__main__":
    sys.exit(main())
