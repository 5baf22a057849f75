"""The commands of the operator's documents, run as written: a newcomer's walk from an empty server to live.

Then cut-over, rotation of a key, upgrade and roll-back. One container plays the server, with an engine of its
own inside; another plays the operator's machine. Images come by digest from a registry, certificates from a
certificate authority for tests; Supabase, OpenAI and Redis are those of docker-compose.yml.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from tests.containers.conftest import ComposeStack
from tests.containers.documents import STEPS, Step, block_of
from tests.containers.engine import (
    BASE_IMAGE,
    IMAGES,
    ROOT,
    docker,
    inspect,
    python,
    remove_derived_images,
    run_detached,
)

from wearon_local.app.next_app import SAMPLE_PERSON
from wearon_local.processes import wait_until

pytestmark = pytest.mark.timeout(3600)

NAME: Final = "sizing.example.com"
VARIABLES: Final = {"consumer": "CONSUMER", "generator": "GENERATOR", "sizing-api": "SIZING"}
TRUSTED: Final = "/etc/ssl/certs/ca-certificates.crt"
_ENGINE_INSIDE: Final = (
    *(word for name in ("SYS_ADMIN", "NET_ADMIN", "MKNOD", "SYS_PTRACE") for word in ("--cap-add", name)),
    *(
        word
        for name in ("seccomp", "apparmor", "systempaths")
        for word in ("--security-opt", f"{name}=unconfined")
    ),
    *("--device-cgroup-rule", "a *:* rwm", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", "/var/lib/docker"),
)
"""What an engine inside a container needs: less than --privileged, which not every machine can give."""


_ROOT_OF_AUTHORITY: Final = """
import ssl, urllib.request
trust = ssl.create_default_context(cafile="/etc/acme.pem")
print(urllib.request.urlopen("https://acme:15000/roots/0", context=trust).read().decode())
"""


def _build(target: str, dockerfile: str) -> str:
    tag = f"wearon-test-{target}:dev"
    docker("build", "-q", "-t", tag, "--target", target, "--build-arg", f"BASE={BASE_IMAGE}",
           "-f", f"tests/containers/{dockerfile}", ".")  # fmt: skip
    return tag


@dataclass
class Walk:
    """Both machines, and what the operator knows."""

    server: str
    workstation: str
    authority: str
    registry_port: int
    stack: ComposeStack
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    version: str = "1"
    done: list[str] = field(default_factory=list)

    def push(self, image: str, name: str) -> str:
        """Put an image into the registry; returns its name there, by digest."""
        tag = f"127.0.0.1:{self.registry_port}/{name}"
        docker("tag", image, tag)
        docker("push", "-q", tag)
        (digest,) = (d for d in inspect(tag)["RepoDigests"] if d.startswith("127.0.0.1"))
        docker("rmi", tag)
        return "registry:5000/" + digest.partition("/")[2]

    def run(self, place: str, text: str) -> str:
        """Run a piece of shell; it must end with 0. Returns what it printed."""
        environment = {
            "SERVER": f"deploy@{NAME}",
            "DATABASE_URL": "postgresql://postgres:local@postgres:5432/postgres",
            # Of a machine that other tests keep busy, too.
            "READY_SECONDS": "600",
            **{VARIABLES[service]: image for service, image in self.images[self.version].items()},
        }
        user = "deploy" if place == "deploy" else "root"
        machine, folder = {
            "root": (self.server, "/root"),
            "deploy": (self.server, "/opt/wearon"),
            "workstation": (self.workstation, "/repo"),
            "database": (self.workstation, "/repo"),
        }[place]
        if place == "database":
            text = f"psql -v ON_ERROR_STOP=1 --no-align --tuples-only \"$DATABASE_URL\" <<'SQL'\n{text}\nSQL"
        settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        argv = ["docker", "exec", "-u", user, "-w", folder, *settings, machine, "bash", "-euo", "pipefail"]
        done = subprocess.run([*argv, "-c", text], capture_output=True, text=True, timeout=900, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{place}: {text}\nended with {done.returncode}:\n{said}"
        return said

    def step(self, step: Step) -> str:
        """Run the step's block as it stands in its document, and note what it took."""
        block, started = block_of(step), time.monotonic()
        said = "" if step.place in ("reader", "skipped") else self.run(step.place, block.text)
        how = {"reader": "filled in", "skipped": f"skipped: {step.note}"}.get(
            step.place, f"run ({step.place})"
        )
        self.done.append(
            f"{time.monotonic() - started:6.1f} s  {step.document:<10}  {step.begins.strip()[:70]:<70}  {how}"
        )
        return said

    def running(self, service: str) -> int:
        """Containers of a service on the server."""
        label = f"label=com.docker.compose.service={service}"
        return len(self.run("root", f"docker ps -q --filter {label}").split())

    def try_on(self) -> None:
        """One job of the application, completed."""
        user = self.stack.app.create_user()
        job = self.stack.app.b2c_job(user, image_urls=self.stack.app.upload_inputs(user, [SAMPLE_PERSON] * 2))
        self.stack.app.push(job)
        (row,) = self.stack.app.wait_settled(job, timeout=180)
        assert row["status"] == "completed", row["error_message"]

    # ------------------------------------------------ what happens before a step, outside the documents

    def start_engine(self) -> None:
        """A server starts it by itself; a container has no init that would."""
        mirror = "--registry-mirror http://registry:5000 --insecure-registry registry:5000"
        self.run("root", f"nohup dockerd {mirror} >/var/log/dockerd.log 2>&1 & sleep 0.1")
        wait_until(lambda: self._answers("docker info"), timeout=60, what="engine of the server", every=0.5)

    def _answers(self, command: str) -> bool:
        with contextlib.suppress(AssertionError):
            self.run("root", command)
            return True
        return False

    def make_authority_known(self) -> None:
        """As Let's Encrypt is: certbot asks it by default, and both machines trust what it signs."""
        certificates = docker("exec", self.authority, "cat", "/etc/acme.pem")
        certificates += "\n" + python(self.authority, _ROOT_OF_AUTHORITY)
        for machine in ("root", "workstation"):
            self.run(machine, f"echo {shlex.quote(certificates)} >>{TRUSTED}")
        self.run("root", "echo 'server = https://acme:14000/dir' >>/etc/letsencrypt/cli.ini")

    def wait_for_second_certificate(self) -> None:
        """The edge shows it without a restart."""
        serial = "openssl x509 -noout -serial"
        second = self.run("root", f"{serial} -in /etc/letsencrypt/archive/{NAME}/cert2.pem")
        shown = f"openssl s_client -connect {NAME}:443 -servername {NAME} </dev/null 2>/dev/null | {serial}"
        wait_until(
            lambda: self.run("workstation", shown) == second, timeout=30, what="new certificate", every=0.5
        )

    def wait_for_plain_containers(self) -> None:
        """The three that `docker run` started are healthy, as their images' own checks say."""
        names = ("wearon-consumer", "wearon-generator", "wearon-sizing")
        asked = f"docker inspect -f '{{{{.State.Health.Status}}}}' {' '.join(names)}"
        healthy = ["healthy"] * len(names)
        wait_until(lambda: self.run("root", asked).split() == healthy, timeout=180, what="health", every=1)

    def address(self, service: str) -> str:
        """Of a stand-in: the containers on the server do not know the names of the network around it."""
        (container,) = self.stack.project.containers(service)
        (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def fill_in_secrets(self) -> None:
        """As the table in deployment.md says."""
        redis = f"REDIS_URL=redis://{self.address('redis')}:6379/0"
        gateway = f"http://{self.address('gateway')}:8100"
        supabase = f"SUPABASE_URL={gateway}\nSUPABASE_PUBLIC_URL={self.stack.gateway_url}"
        keys = f"SUPABASE_SERVICE_ROLE_KEY={self.stack.app.service_role_key}\nOPENAI_API_KEY=sk-stand-in"
        bucket = f"STORAGE_BUCKET=images\nOPENAI_BASE_URL=http://{self.address('openai')}:8200/v1"
        for service, text in (
            ("consumer", redis),
            ("generator", "\n".join([redis, supabase, keys, bucket])),
            ("sizing-api", "\n".join([redis, supabase])),
        ):
            self.run("deploy", f"echo {shlex.quote(text)} >env/{service}.env")

    def start_old_worker(self) -> None:
        """Something of that name which a stop ends."""
        program = shlex.quote("trap 'exit 0' TERM; sleep 900 & wait")
        self.run(
            "root", f"docker run -d --restart always --name wearon-worker redis:7-bookworm sh -c {program}"
        )


@pytest.fixture(scope="module")
def walk(stack: ComposeStack) -> Iterator[Walk]:
    """Both machines as they are at the beginning: nothing but SSH from one to the other."""
    for service in IMAGES:
        stack.project("stop", "--timeout", "20", service)
    network = f"{stack.project.name}_default"
    machines: list[str] = []

    def start(image: str, name: str, *options: str) -> str:
        container = run_detached("--network", network, "--network-alias", name, *options, image)
        machines.append(container)
        return container

    try:
        docker("build", "-q", "-t", "wearon-test-registry:dev", "--build-arg", f"BASE={BASE_IMAGE}",
               "-f", "tests/containers/registry.Dockerfile", ".")  # fmt: skip
        registry = start("wearon-test-registry:dev", "registry", "-p", "127.0.0.1::5000")
        port = int(inspect(registry)["NetworkSettings"]["Ports"]["5000/tcp"][0]["HostPort"])
        server = start(_build("fresh", "vps.Dockerfile"), NAME, *_ENGINE_INSIDE)
        workstation = start(_build("workstation", "vps.Dockerfile"), "workstation", "-v", f"{ROOT}:/repo:ro")
        docker("build", "-q", "-t", "wearon-test-acme:dev", "--build-arg", f"BASE={BASE_IMAGE}",
               "-f", "tests/containers/acme.Dockerfile", ".")  # fmt: skip
        authority = start("wearon-test-acme:dev", "acme")
        walk = Walk(server, workstation, authority, port, stack)
        for version in ("1", "2"):
            walk.images[version] = {}
            for service, image in IMAGES.items():
                text = f"FROM {image}\nLABEL wearon.test={version}"
                tag = f"{image.partition(':')[0]}:walk{version}"
                subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=text, text=True, check=True)
                walk.images[version][service] = walk.push(tag, f"wearon/{tag}")
        # What the documents take from Docker Hub, through a mirror of it.
        docker("build", "-q", "-t", "wearon-test-nginx:dev", "--build-arg", f"BASE={BASE_IMAGE}",
               "-f", "tests/containers/nginx.Dockerfile", ".")  # fmt: skip
        walk.push("wearon-test-nginx:dev", "library/nginx:1.28-bookworm")
        walk.push("redis:7-bookworm", "library/redis:7-bookworm")
        key = walk.run(
            "workstation", "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; cat ~/.ssh/id_ed25519.pub"
        )
        walk.run("root", f"echo {shlex.quote(key)} >~/.ssh/authorized_keys")
        host_key = walk.run("root", "cat /etc/ssh/ssh_host_ed25519_key.pub")
        walk.run("workstation", f"echo {shlex.quote(f'{NAME} {host_key}')} >~/.ssh/known_hosts")
        yield walk
    finally:
        docker("rm", "-f", "-v", *machines)
        remove_derived_images()


def test_documents_run_as_written(walk: Walk) -> None:
    """In the order of STEPS; after some, what the document promises is looked at."""
    before: dict[str, Callable[[], None]] = {
        "ufw allow": walk.start_engine,
        "export DOMAIN": walk.make_authority_known,
        "export SERVER": walk.fill_in_secrets,
        "docker update --restart no": walk.start_old_worker,
    }
    started = time.monotonic()
    try:
        for step in STEPS:
            for beginning, prepare in before.items():
                if step.begins.startswith(beginning):
                    prepare()
            if step.document == "upgrade":
                walk.version = "2"
            said = walk.step(step)
            _look(walk, step, said)
    finally:
        print(f"\n{time.monotonic() - started:.0f} s in all", *walk.done, sep="\n")


def _look(walk: Walk, step: Step, said: str) -> None:
    match step.document, step.begins.split()[0], step.place:
        case "cutover", "deploy/ship", _ if "--only" in step.begins:
            assert [walk.running(s) for s in ("consumer", "generator", "sizing-api", "edge")] == [0, 0, 1, 1]
        case "cutover", "docker", _:
            assert walk.run("root", "docker inspect -f '{{.State.Running}}' wearon-worker").strip() == "false"
        case "cutover", "select", _:
            assert said.strip() == "0"
        case (("cutover" | "deployment" | "upgrade"), "deploy/ship", _):
            walk.try_on()
        case "deployment", "certbot", _:
            walk.wait_for_second_certificate()
        case "security", "/opt/wearon/rollout", _:
            walk.try_on()
        case "cutover", "/opt/wearon/wearon", _ if " stop " in step.begins:
            assert walk.running(step.begins.split()[-1]) == 0
        case "deployment", 'common="--restart', _:
            walk.wait_for_plain_containers()
            walk.try_on()
