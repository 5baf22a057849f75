"""`python -m wearon_local.studio`: the studio page for docker-compose.yml."""

from wearon_local.studio.server import main

main()
