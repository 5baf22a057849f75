"""The fenced commands of the operator's documents, and what is done with each.

`STEPS` is in the order of a newcomer's walk. Every fenced block of DOCUMENTS stands in it exactly once, by
its beginning: `uncovered` tells what does not, so that no document changes without it.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = ("deployment", "cutover", "operations", "security", "upgrade")
Place = Literal["root", "deploy", "workstation", "database", "reader", "skipped"]
"""Where a block is run, the first two on the server. `reader`: to be filled in, not run as it stands."""

_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    language: str
    text: str


@dataclass(frozen=True)
class Step:
    """What is done with the block that begins like this; `note`: the reason, where it is skipped."""

    document: str
    begins: str
    place: Place
    note: str = ""


def blocks() -> list[Block]:
    """Every fenced block of the documents, without its indentation."""
    found = []
    for document in DOCUMENTS:
        text = (ROOT / "docs" / f"{document}.md").read_text()
        found += [
            Block(document, language, textwrap.dedent(body).strip("\n"))
            for _, language, body in _FENCE.findall(text)
        ]
    return found


def block_of(step: Step) -> Block:
    """The one block that a step is about."""
    (found,) = (b for b in blocks() if b.document == step.document and b.text.startswith(step.begins))
    return found


_SHIP_ALL: Final = 'deploy/ship "$SERVER" "$CONSUMER" "$GENERATOR" "$SIZING"'

STEPS: Final = (
    Step(
        "deployment",
        "docker compose up --build",
        "skipped",
        "stays in the foreground; tests/containers/check_compose.py runs this stack",
    ),
    Step("deployment", "apt-get update && apt-get install -y certbot ufw docker.io docker-compose", "root"),
    Step(
        "deployment",
        "ufw allow OpenSSH && ufw allow 80/tcp && ufw allow 443/tcp && ufw --force enable",
        "root",
    ),
    Step("deployment", "export DOMAIN=sizing.example.com", "root"),
    Step("deployment", "cat > /etc/letsencrypt/renewal-hooks/deploy/wearon <<'EOF'", "root"),
    Step(
        "deployment",
        "cd /opt/wearon/env && umask 077 && touch consumer.env generator.env sizing-api.env",
        "deploy",
    ),
    Step("deployment", "export SERVER=deploy@sizing.example.com", "reader"),
    Step("cutover", "deploy/migrate", "workstation"),
    Step("cutover", 'deploy/ship "$SERVER" --only sizing-api "$SIZING"', "workstation"),
    Step("cutover", "docker update --restart no wearon-worker && docker stop -t 330 wearon-worker", "deploy"),
    Step(
        "cutover",
        "select count(*) from generation_sessions s where status in ('completed', 'failed') and not exists",
        "database",
    ),
    Step("cutover", _SHIP_ALL, "workstation"),
    Step("deployment", _SHIP_ALL, "workstation"),
    Step("deployment", 'ssh "$SERVER" /opt/wearon/wearon ps', "workstation"),
    Step("deployment", "certbot certonly --webroot -w /opt/wearon/acme", "root"),
    Step("deployment", "cd /opt/wearon\n", "deploy"),
    Step(
        "deployment",
        "/opt/wearon/wearon monitoring up",
        "skipped",
        "the images of Prometheus, Loki, Alloy and Grafana cannot be had here",
    ),
    Step("operations", "cd /opt/wearon\n", "deploy"),
    Step("operations", "with b2c as (", "database"),
    Step(
        "security",
        "select policyname, cmd, roles, with_check from pg_policies where tablename = 'generation_sessions';",
        "database",
    ),
    Step("security", "select owner_id, count(*) from generation_ledger", "database"),
    Step("security", "/opt/wearon/rollout --same", "deploy"),
    Step("upgrade", _SHIP_ALL, "workstation"),
    Step(
        "upgrade",
        'deploy/ship "$SERVER" --back',
        "workstation",
    ),
    Step("cutover", "/opt/wearon/wearon stop consumer", "deploy"),
    Step("cutover", "/opt/wearon/wearon ctl status", "deploy"),
    Step("cutover", "/opt/wearon/wearon stop generator", "deploy"),
    Step(
        "deployment",
        'common="--restart unless-stopped',
        "deploy",
    ),
)


def uncovered() -> list[str]:
    """Blocks that not exactly one step is about, and steps about no block."""
    pairs = [
        (step, block)
        for step in STEPS
        for block in blocks()
        if block.document == step.document and block.text.startswith(step.begins)
    ]
    wrong = [block for block in blocks() if [b for _, b in pairs].count(block) != 1]
    idle = [step for step in STEPS if step not in [s for s, _ in pairs]]
    return [f"{b.document}.md has: {b.text}" for b in wrong] + [
        f"{s.document}.md has no: {s.begins}" for s in idle
    ]
