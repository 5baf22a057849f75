"""What the files that images and servers are made from have to say, without an engine."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from tests.containers.servers import ContainerProcess

from wearon_local.processes import Process
from wearon_sizing.middleware import MOST_BYTES

ROOT = Path(__file__).parents[2]
SERVED_BY_TWO_WORKERS = 35
"""Photos a second."""


def test_nginx_tells_the_application_that_it_is_busy_and_not_that_the_request_is_bad() -> None:
    """The application's server asks for all shoppers, from one address."""
    conf = (ROOT / "deploy/nginx/nginx.conf").read_text()
    assert re.findall(r"limit_(?:req|conn)_status (\d+);", conf) == ["503", "503"]
    assert all(int(rate) > SERVED_BY_TWO_WORKERS for rate in re.findall(r"rate=(\d+)r/s", conf))
    assert all(int(burst) > SERVED_BY_TWO_WORKERS for burst in re.findall(r"burst=(\d+)", conf))
    assert re.findall(r"limit_conn connections (\d+);", conf) == ["64"]


def test_edge_and_ingress_let_through_what_applications_call() -> None:
    """Every POST of the sizing API and /health, with bodies as long as the API itself takes."""
    described = json.loads((ROOT / "services/sizing-api/openapi.json").read_text())["paths"]
    called = {path for path, methods in described.items() if "post" in methods} | {"/health"}
    conf = (ROOT / "deploy/nginx/nginx.conf").read_text()
    outside = conf[conf.index("listen 8443 ssl") :]
    exact, patterns = (re.findall(rf"location {kind} (\S+) {{", outside) for kind in ("=", "~"))
    let_through = {p for p in described if p in exact or any(re.search(r, p) for r in patterns)}
    ingress = yaml.safe_load((ROOT / "deploy/k8s/base/ingress.yaml").read_text())
    (rule,) = ingress["spec"]["rules"]
    assert let_through == called == {path["path"] for path in rule["http"]["paths"]}
    longest = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert [longest] == re.findall(r"client_max_body_size (\w+);", conf) == [f"{MOST_BYTES // 1024}k"]


def test_the_generators_image_has_wearonctl_in_its_path(tmp_path: Path) -> None:
    """The line of the Dockerfile, run as it stands."""
    dockerfile = (ROOT / "services/generator/Dockerfile").read_text()
    (line,) = re.findall(r"^RUN (printf .*> /opt/venv/bin/wearonctl .*\\\n.*)$", dockerfile, re.MULTILINE)
    subprocess.run(["/bin/sh", "-c", line.replace("/opt/venv/bin", str(tmp_path))], check=True)
    done = subprocess.run(
        [tmp_path / "wearonctl", "--help"],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: wearonctl ")


def test_container_answers_everything_that_a_process_answers() -> None:
    """A method that uses the child process itself must have a form of its own for containers."""
    methods = {
        name: member.fget if isinstance(member, property) else member
        for name, member in vars(Process).items()
        if callable(member) or isinstance(member, property)
    }
    of_the_child = {name for name, method in methods.items() if "self._popen" in inspect.getsource(method)}
    assert of_the_child - vars(ContainerProcess).keys() == set()


def test_compose_hands_on_the_proxy_to_those_that_call_out() -> None:
    for file, services in (("openai", {"generator"}), ("supabase", {"generator", "sizing-api"})):
        described = yaml.safe_load((ROOT / f"deploy/compose.{file}.yml").read_text())["services"]
        for service in services:
            environment = described[service]["environment"]
            assert environment["HTTPS_PROXY"] == "${HTTPS_PROXY:-}"
            assert environment["NO_PROXY"] == "${NO_PROXY:-}"
