"""The OpenAPI document: current, complete, and kept by the running service."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from wearon_contracts.errors import ErrorCode, describe, sentence
from wearon_sizing.cli import openapi_document

from .studio import HERE, Service

COMMITTED = HERE.parent / "openapi.json"


def test_the_committed_document_is_current() -> None:
    hint = "run: make generated"
    assert COMMITTED.read_text() == openapi_document(), hint


def test_every_error_has_an_example_with_its_sentence() -> None:
    document = json.loads(COMMITTED.read_text())
    responses = document["paths"]["/estimate-body"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "422", "500", "503"}
    examples: dict[str, Any] = {}
    for status, response in responses.items():
        if status != "200":
            examples |= response["content"]["application/json"]["examples"]
    for code, example in examples.items():
        assert example["value"]["code"] == code
        assert example["value"]["detail"] == sentence(ErrorCode(code), "photo")


def test_each_path_names_the_errors_that_it_answers() -> None:
    paths = json.loads(COMMITTED.read_text())["paths"]
    named = {
        path: {
            code
            for status, response in paths[path]["post"]["responses"].items()
            if status != "200"
            for code in response["content"]["application/json"]["examples"]
        }
        for path in ("/estimate-body", "/estimate-without-photo", "/check-photo")
    }
    all_codes = {code.value for code in ErrorCode if describe(code).http_status is not None}
    # What only a warning or a verdict says, and what only the generator asks of a picture.
    assert all_codes - named["/estimate-body"] == {
        "image_too_small",
        "not_in_profile",
        "upper_body_outside_frame",
    }
    assert named["/check-photo"].isdisjoint({"no_person", "turned", "size_chart_invalid"})
    assert "image_timeout" in named["/check-photo"]
    assert named["/estimate-without-photo"] == {
        "internal_error",
        "overloaded",
        "request_invalid",
        "request_timeout",
        "size_chart_invalid",
        "unauthorized",
    }


# All but "a valid request must be accepted": no made-up URL leads to a photo.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)


@pytest.mark.slow
def test_the_running_service_keeps_to_it(service: Service) -> None:
    """Hundreds of valid and invalid requests made up by schemathesis: no 500, no undocumented answer."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
    options = ["--max-examples=60", "--seed=7", "--no-color", "--generation-database=none"]
    checks = f"--checks={','.join(CHECKS)}"
    done = subprocess.run(
        [*command, *options, checks], check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-6000:]
