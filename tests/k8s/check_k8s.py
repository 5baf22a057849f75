"""What deploy/k8s/render prints: valid, no scale an apply would undo, who reaches whom. Needs kubectl."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from tests.k8s.api_server import api_server

ROOT: Final = Path(__file__).parents[2]
DIGEST: Final = "@sha256:" + "0123456789abcdef" * 4
IMAGES: Final = [f"ghcr.io/shop/wearon-{name}{DIGEST}" for name in ("consumer", "generator", "sizing")]
KUBERNETES: Final = "1.31"
CUSTOM: Final = {"ScaledObject", "PodMonitor", "PrometheusRule"}
"""Kinds of operators, whose schemas Kubernetes does not have."""


def _render(*arguments: str) -> list[dict[str, Any]]:
    argv = [ROOT / "deploy/k8s/render", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def services() -> list[dict[str, Any]]:
    return _render("services", *IMAGES)


@pytest.fixture(scope="module")
def everything(services: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*services, *_render("migrations")]


def _of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


def test_every_object_is_valid_and_in_one_namespace(everything: list[dict[str, Any]]) -> None:
    """Against the schemas of the API, strictly; in the one namespace."""
    assert {d["kind"] for d in everything} >= {"Deployment", "Ingress", "Job", "NetworkPolicy", *CUSTOM}
    for document in everything:
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "wearon", document
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_images_are_the_given_digests_and_pulled_with_the_secret(services: list[dict[str, Any]]) -> None:
    pods = [d["spec"]["template"]["spec"] for d in _of_kind(services, "Deployment").values()]
    assert sorted(pod["containers"][0]["image"] for pod in pods) == IMAGES
    assert all(pod["imagePullSecrets"] == [{"name": "wearon-registry"}] for pod in pods)


def test_image_without_digest_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        _render("services", *IMAGES[:2], "ghcr.io/shop/wearon-sizing:latest")


def test_migration_asks_the_clusters_own_dns(tmp_path: Path) -> None:
    """Or the Job could not find the database where NodeLocal DNS has another address."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("local"))
    values = tmp_path / "deploy/k8s/cluster/values.env"
    values.write_text(
        re.sub(r"^DNS_CIDR=.*$", "DNS_CIDR=10.96.0.10/32", values.read_text(), flags=re.MULTILINE)
    )
    argv = [tmp_path / "deploy/k8s/render", "migrations"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    (policy,) = (d for d in yaml.safe_load_all(done.stdout) if d["kind"] == "NetworkPolicy")
    assert _allows([policy], MIGRATE, "egress", "10.96.0.10", 53)
    assert not _allows([policy], MIGRATE, "egress", NODE_DNS, 53)


@pytest.mark.parametrize("name", ["INGRESS_HOST", "REDIS_CIDR", "DNS_CIDR", "PROXY_CIDR"])
def test_empty_value_is_refused(tmp_path: Path, name: str) -> None:
    """An Ingress without a host would serve every host."""
    shutil.copytree(ROOT / "deploy/k8s", tmp_path / "deploy/k8s")
    values = tmp_path / "deploy/k8s/cluster/values.env"
    values.write_text(re.sub(rf"^{name}=.*$", f"{name}=", values.read_text(), flags=re.MULTILINE))
    argv = [tmp_path / "deploy/k8s/render", "services", *IMAGES]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name}=" in done.stderr


def test_second_apply_leaves_the_scale(services: list[dict[str, Any]]) -> None:
    """What an apply does not name it does not touch: each Deployment has an autoscaler and no `replicas`."""
    scaled = {
        document["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for document in _of_kind(services, kind).values()
    }
    deployments = _of_kind(services, "Deployment")
    assert scaled == set(deployments)
    assert all("replicas" not in deployment["spec"] for deployment in deployments.values())


def test_autoscaled_deployments_keep_their_scale_through_an_upgrade(
    services: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Applied, scaled by somebody else, applied again with other images: kubectl leaves the scale alone."""
    upgraded = [image.replace("sha256:0", "sha256:f") for image in IMAGES]
    with api_server() as server:
        for documents in (services, _render("services", *upgraded)):
            deployments = yaml.safe_dump_all(_of_kind(documents, "Deployment").values())
            argv = ["kubectl", "apply", "--validate=false", "--server", server.url, "-f", "-"]
            environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
            subprocess.run(argv, input=deployments, env=environment, text=True, check=True)
            if not server.patches:
                for number, name in enumerate(("consumer", "generator", "sizing-api"), 7):
                    server.deployment(name)["spec"]["replicas"] = number
        kept = [server.deployment(name)["spec"] for name in ("consumer", "generator", "sizing-api")]
    assert len(server.patches) == 3
    assert [spec["replicas"] for spec in kept] == [7, 8, 9]
    assert [spec["template"]["spec"]["containers"][0]["image"] for spec in kept] == upgraded


def test_alerts_find_the_jobs_of_the_pod_monitor(services: list[dict[str, Any]]) -> None:
    """The job is a label of the pods, and the alerts are those of deploy/monitoring."""
    (monitor,) = _of_kind(services, "PodMonitor").values()
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
    for name, deployment in _of_kind(services, "Deployment").items():
        template = deployment["spec"]["template"]
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == name
        assert [port["name"] for port in template["spec"]["containers"][0]["ports"]] == ["http"]
    (rules,) = _of_kind(services, "PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy/monitoring/rules/wearon.yml").read_text())


def test_proxy_variables_reach_those_that_call_out(services: list[dict[str, Any]]) -> None:
    """By a name with a hash of its content, so that a change of it starts new pods."""
    (name,) = (name for name in _of_kind(services, "ConfigMap") if name.startswith("proxy-"))
    assert set(_of_kind(services, "ConfigMap")[name]["data"]) == {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}
    given = {
        deployment: [
            source["configMapRef"]["name"]
            for source in document["spec"]["template"]["spec"]["containers"][0]["envFrom"]
            if "configMapRef" in source
        ]
        for deployment, document in _of_kind(services, "Deployment").items()
    }
    assert given == {"consumer": [], "generator": [name], "sizing-api": [name]}


# ---------------------------------------------------------------------------------- who reaches whom


@dataclass(frozen=True)
class Pod:
    """A pod inside the cluster."""

    namespace: str
    labels: tuple[tuple[str, str], ...]


def _ours(name: str) -> Pod:
    return Pod("wearon", (("app.kubernetes.io/name", name), ("app.kubernetes.io/part-of", "wearon")))


CONSUMER, GENERATOR, SIZING = _ours("consumer"), _ours("generator"), _ours("sizing-api")
MIGRATE: Final = Pod("wearon", (("app.kubernetes.io/name", "migrate"),))
DNS: Final = Pod("kube-system", (("k8s-app", "kube-dns"),))
PROMETHEUS: Final = Pod("monitoring", ())
INGRESS: Final = Pod("ingress-nginx", ())
REDIS: Final = Pod("redis", ())
STRANGER: Final = Pod("default", ())
MANAGED_REDIS, NODE_DNS, WEB, CLOUD, VPC, PROXY = (
    "10.20.0.7",
    "169.254.20.10",
    "1.1.1.1",
    "169.254.169.254",
    "10.9.9.9",
    "192.0.2.1",
)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def _is_peer(peer: dict[str, Any], other: Pod | str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return isinstance(other, str) and (
            ipaddress.ip_address(other) in ipaddress.ip_network(block["cidr"])
            and not any(
                ipaddress.ip_address(other) in ipaddress.ip_network(e) for e in block.get("except", [])
            )
        )
    if isinstance(other, str):
        return False
    namespace = {"kubernetes.io/metadata.name": other.namespace}
    return (
        _selects(peer["namespaceSelector"], namespace)
        if "namespaceSelector" in peer
        else other.namespace == "wearon"
    ) and _selects(peer.get("podSelector", {}), dict(other.labels))


def _allows(policies: list[dict[str, Any]], pod: Pod, way: str, other: Pod | str, port: int) -> bool:
    """As Kubernetes decides: a pod that a policy selects may do what some policy that selects it allows."""
    if pod.namespace != "wearon":
        return True
    about = [
        p["spec"]
        for p in policies
        if way.capitalize() in p["spec"]["policyTypes"]
        and _selects(p["spec"]["podSelector"], dict(pod.labels))
    ]
    peers = {"egress": "to", "ingress": "from"}[way]
    return not about or any(
        any(_is_peer(peer, other) for peer in rule[peers]) and port in [p["port"] for p in rule["ports"]]
        for spec in about
        for rule in spec.get(way, [])
    )


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        *[(pod, MANAGED_REDIS, 6379, True) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(pod, REDIS, 6379, True) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(pod, DNS, 53, True) for pod in (CONSUMER, GENERATOR, SIZING, MIGRATE)],
        *[(pod, NODE_DNS, 53, True) for pod in (CONSUMER, GENERATOR, SIZING, MIGRATE)],
        *[
            (pod, CLOUD, port, False)
            for pod in (CONSUMER, GENERATOR, SIZING, MIGRATE)
            for port in (80, 443, 53)
        ],
        *[(pod, VPC, port, False) for pod in (CONSUMER, GENERATOR, SIZING) for port in (80, 443, 6379, 5432)],
        *[(pod, WEB, 443, pod != CONSUMER) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(pod, WEB, 6379, False) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(pod, WEB, 25, False) for pod in (CONSUMER, GENERATOR, SIZING, MIGRATE)],
        *[(pod, PROXY, 3128, pod != CONSUMER) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(pod, VPC, 3128, False) for pod in (CONSUMER, GENERATOR, SIZING)],
        *[(MIGRATE, WEB, port, True) for port in (5432, 6543)],
        (MIGRATE, MANAGED_REDIS, 6379, False),
        (PROMETHEUS, CONSUMER, 8001, True),
        (PROMETHEUS, GENERATOR, 8002, True),
        (PROMETHEUS, SIZING, 8000, True),
        (INGRESS, SIZING, 8000, True),
        (INGRESS, GENERATOR, 8002, False),
        (STRANGER, SIZING, 8000, False),
        (STRANGER, CONSUMER, 8001, False),
        (CONSUMER, GENERATOR, 8002, False),
        (GENERATOR, SIZING, 8000, False),
    ],
)
def test_only_the_documented_connections_are_allowed(
    everything: list[dict[str, Any]], source: Pod, target: Pod | str, port: int, allowed: bool
) -> None:
    policies = [d for d in everything if d["kind"] == "NetworkPolicy"]
    goes = _allows(policies, source, "egress", target, port)
    comes = isinstance(target, str) or _allows(policies, target, "ingress", source, port)
    assert (goes and comes) == allowed
