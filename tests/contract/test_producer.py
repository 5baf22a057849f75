"""Today's producer, which pushes plain JSON: what it may send, the consumer takes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wearon_consumer.elements import Refusal, read_element
from wearon_contracts.tasks import DeadLetterReason, GenerationTask

EXAMPLES = Path(__file__).parents[2] / "packages/contracts/examples/generation-task"


def _files(kind: str) -> list[Any]:
    return [pytest.param(file, id=file.stem) for file in sorted((EXAMPLES / kind).glob("*.json"))]


@pytest.mark.parametrize("file", _files("valid"))
def test_a_valid_element_becomes_a_task(file: Path) -> None:
    element = read_element(file.read_bytes())
    assert isinstance(element, GenerationTask)
    assert str(element.session_id) == json.loads(file.read_text())["session_id"].lower()


@pytest.mark.parametrize("file", _files("invalid"))
def test_an_invalid_element_is_refused_for_what_is_wrong_with_it(file: Path) -> None:
    golden = json.loads(file.read_text())
    element = read_element(json.dumps(golden["message"]).encode())
    assert isinstance(element, Refusal)
    if element.reason is DeadLetterReason.INVALID_TASK:
        assert all(key in element.detail for key in golden["keys"])
    else:
        assert element.reason in (DeadLetterReason.NOT_AN_OBJECT, DeadLetterReason.UNKNOWN_VERSION)
