"""Every metric that a dashboard, an alert or an autoscaler names is in a live scrape of the services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from wearon_local.stack import Stack

ROOT: Final = Path(__file__).resolve().parents[2]
MONITORING: Final = ROOT / "deploy" / "monitoring"
DASHBOARDS: Final = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))

_MADE_BY_PROMETHEUS: Final = {"up", "ALERTS"}
_WORDS_OF_PROMQL: Final = {
    *("by", "without", "ignoring", "on", "group_left", "group_right", "and", "or", "unless", "offset"),
    *("bool", "inf", "nan"),
}


def expressions() -> Iterator[tuple[str, str]]:
    """Each PromQL expression with the place it stands in."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            if panel["datasource"]["type"] == "prometheus":
                for target in panel["targets"]:
                    yield f"{file.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((MONITORING / "rules" / "wearon.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    for document in yaml.safe_load_all((ROOT / "deploy" / "k8s" / "keda" / "keda.yaml").read_text()):
        for trigger in document["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield f"scaler {document['metadata']['name']}", trigger["metadata"]["query"]


def names_in(expression: str) -> set[str]:
    """The metrics an expression reads."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare)
    return {word for word in words if word.lower() not in _WORDS_OF_PROMQL}


def labels_in(expression: str) -> set[tuple[str, str]]:
    """(metric, label) for each label an expression selects by."""
    return {
        (metric, label)
        for metric, selector in re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}", expression)
        for label in re.findall(r"([a-zA-Z_]+)\s*(?:=~|!~|!=|=)", selector)
        if label not in ("job", "instance", "le")
    }


@pytest.fixture(scope="module")
def scraped() -> dict[str, set[str]]:
    """Sample names of all services with their labels, after two try-ons and one refused photo."""
    found: dict[str, set[str]] = {}
    with Stack() as stack:
        services = [stack.start_service(name) for name in ("consumer", "generator", "sizing-api")]
        user = stack.app.create_user()
        blocked = stack.app.b2c_job(user, prompt="[[standin:moderation_blocked]]")
        jobs = [stack.app.b2c_job(user), blocked]
        stack.app.push(*jobs)
        stack.app.push_raw(b"not json")
        stack.app.wait_settled(*jobs)
        request = {"image_url": "http://10.0.0.1/photo.jpg", "height_cm": 170}
        assert httpx.post(f"{services[2].url}/estimate-body", json=request).status_code == 400
        for service in services:
            text = httpx.get(f"{service.url}/metrics").text
            for family in text_string_to_metric_families(text):
                for name in _sample_names(family):
                    found.setdefault(name, set())
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _sample_names(family: Any) -> list[str]:
    """What a family's samples are called, also when it has none yet."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return [family.name + suffix for suffix in suffixes.get(family.type, [""])]


def test_every_metric_named_is_scraped(scraped: dict[str, set[str]]) -> None:
    """A misspelt or removed one would show as an empty panel, or as an alert that never fires."""
    known = set(scraped) | _MADE_BY_PROMETHEUS
    named = {(where, name) for where, expression in expressions() for name in names_in(expression)}
    assert len({name for _, name in named}) > 20
    assert sorted((where, name) for where, name in named if name not in known) == []


def test_every_label_selected_by_is_scraped(scraped: dict[str, set[str]]) -> None:
    """The same for labels, where the metric has samples to look at."""
    selected = {(w, *pair) for w, expression in expressions() for pair in labels_in(expression)}
    wrong = [
        (where, metric, label)
        for where, metric, label in sorted(selected)
        if scraped.get(metric) and label not in scraped[metric]
    ]
    assert wrong == []


def test_the_overview_shows_when_the_model_ends_and_whether_the_fallback_works() -> None:
    named = {
        name for where, expression in expressions() if "overview" in where for name in names_in(expression)
    }
    assert named >= {"wearon_generator_model_days_left", "wearon_generator_fallback_in_use"}


def test_every_alert_has_its_runbook() -> None:
    """A section of docs/operations.md under the alert's own name."""
    operations = (ROOT / "docs" / "operations.md").read_text()
    sections = {heading.strip().lower() for heading in re.findall(r"^#+ (.*)$", operations, re.MULTILINE)}
    for group in yaml.safe_load((MONITORING / "rules" / "wearon.yml").read_text())["groups"]:
        for rule in group["rules"]:
            anchor = rule["annotations"]["runbook"].partition("#")[2]
            assert anchor == rule["alert"].lower()
            assert anchor in sections, f"docs/operations.md has no section {rule['alert']}"


def test_an_unknown_metric_would_be_noticed() -> None:
    """The reader of expressions finds names, and only names."""
    expression = (
        'sum by (le) (rate(wearon_gone_bucket{step="wait"}[5m])) / ignoring (code) up > 0.1 and (b == 1)'
    )
    assert names_in(expression) == {"wearon_gone_bucket", "up", "b"}
    assert labels_in(expression) == {("wearon_gone_bucket", "step")}
