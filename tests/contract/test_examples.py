"""The golden messages: pydantic, which the services use, and ajv, which a producer would, agree on each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from wearon_contracts.schemas import MESSAGES, Message

EXAMPLES = Path(__file__).parents[2] / "packages/contracts/examples"
BY_NAME = {message.name: message for message in MESSAGES}
READ_AS_VALUES = ("generation-task", "rejected-task", "estimate-body-request")
"""Messages that a service takes from a parser of its own (Celery, FastAPI), not as JSON text."""


def _goldens(kind: str) -> list[Any]:
    files = sorted(EXAMPLES.glob(f"*/{kind}/*.json"))
    return [pytest.param(file, id=f"{file.parts[-3]}/{file.stem}") for file in files]


def _message(file: Path) -> Message:
    return BY_NAME[file.parts[-3]]


def _keys_at_fault(error: ValidationError) -> list[str]:
    keys = set()
    for found in error.errors():
        if found["loc"]:
            keys.add(str(found["loc"][0]))
        elif owner := re.search(r"(\w+) is required for channel", found["msg"]):
            keys.add(owner[1])
    return sorted(keys)


@pytest.mark.parametrize("file", _goldens("valid"))
def test_both_validators_take_a_valid_message(file: Path, ajv: Any) -> None:
    text = file.read_text(encoding="utf-8")
    message = _message(file)
    message.model.model_validate_json(text, strict=True)
    message.model.model_validate(json.loads(text))
    assert ajv.judge(message.name, text).valid


@pytest.mark.parametrize("file", _goldens("invalid"))
def test_both_validators_refuse_an_invalid_message_for_the_same_keys(file: Path, ajv: Any) -> None:
    golden = json.loads(file.read_text(encoding="utf-8"))
    assert set(golden) == {"reason", "keys", "message"} and golden["reason"]
    text = json.dumps(golden["message"])
    message = _message(file)

    with pytest.raises(ValidationError) as of_text:
        message.model.model_validate_json(text, strict=True)
    # pydantic's parser refuses half a surrogate pair before it knows the key it stands under.
    if of_text.value.errors()[0]["type"] != "json_invalid":
        assert _keys_at_fault(of_text.value) == golden["keys"]
    if message.name in READ_AS_VALUES:
        with pytest.raises(ValidationError) as of_value:
            message.model.model_validate(golden["message"])
        assert _keys_at_fault(of_value.value) == golden["keys"]

    verdict = ajv.judge(message.name, text)
    assert not verdict.valid
    assert verdict.keys == golden["keys"]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_every_message_has_examples(message: Message, kind: str) -> None:
    assert list((EXAMPLES / message.name / kind).glob("*.json"))
