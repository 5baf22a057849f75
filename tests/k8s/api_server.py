"""As much of a Kubernetes API server as `kubectl apply` needs for Deployments: what does an apply change?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_DISCOVERY: Final[dict[str, Any]] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}],
    },
    "/apis/apps/v1": {
        "kind": "APIResourceList",
        "groupVersion": "apps/v1",
        "resources": [
            {
                "name": "deployments",
                "kind": "Deployment",
                "namespaced": True,
                "verbs": ["create", "get", "patch"],
            }
        ],
    },
}


@dataclass
class ApiServer:
    """What it keeps, by path, and the patches that it was sent."""

    url: str
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    patches: list[dict[str, Any]] = field(default_factory=list)

    def deployment(self, name: str) -> dict[str, Any]:
        return self.kept[f"/apis/apps/v1/namespaces/wearon/deployments/{name}"]


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """Answers on loopback while the block runs."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server = ApiServer(f"http://127.0.0.1:{http.server_port}")
    _Handler.server_state = server
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: ApiServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = _DISCOVERY.get(path) or self.server_state.kept.get(path)
        self._answer(200, found) if found else self._answer(
            404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        )

    def do_POST(self) -> None:
        made = self._body()
        # A Deployment that names no number has one replica.
        made["spec"].setdefault("replicas", 1)
        path = f"{self.path.partition('?')[0]}/{made['metadata']['name']}"
        self.server_state.kept[path] = made
        self._answer(201, made)

    def do_PATCH(self) -> None:
        patch, kept = self._body(), self.server_state.kept[self.path.partition("?")[0]]
        self.server_state.patches.append(patch)
        _merge(kept, patch)
        self._answer(200, kept)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at what was kept."""

    def _body(self) -> dict[str, Any]:
        return dict(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _merge(kept: dict[str, Any], patch: dict[str, Any]) -> None:
    """A strategic merge patch: objects are merged, lists of them by `name`, null takes a value out."""
    for key, value in patch.items():
        if value is None:
            kept.pop(key, None)
        elif isinstance(value, dict) and isinstance(kept.get(key), dict):
            _merge(kept[key], value)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
            known = {entry["name"]: entry for entry in kept.get(key, [])}
            for entry in value:
                _merge(known.setdefault(entry["name"], {}), entry)
            kept[key] = list(known.values())
        elif not key.startswith("$"):
            kept[key] = value
