"""`python -m wearon_local`."""

from wearon_local.cli import main

raise SystemExit(main())
