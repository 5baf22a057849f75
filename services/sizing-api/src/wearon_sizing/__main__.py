"""`python -m wearon_sizing`: the service, or with a word after it one of the commands of `wearon-sizing`."""

from __future__ import annotations

import os
import sys

# One photo's matrices are small: several threads for one would only wait for each other and take the cores
# from the other workers. NumPy reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from wearon_sizing.cli import main

if __name__ == "__main__":
    sys.exit(main())
