"""A dry run of the deployment: `deploy/ship` over SSH to a container that plays the server.

In this order: first deployment, upgrade under load, one that fails and goes back, one taken back by hand.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.containers.conftest import ComposeStack
from tests.containers.engine import BASE_IMAGE, IMAGES, ROOT, docker, inspect, run

from wearon_local.app.next_app import SAMPLE_PERSON, Job, NextApp
from wearon_local.processes import free_port, wait_until

pytestmark = pytest.mark.timeout(900)

SERVICES: Final = tuple(IMAGES)
NGINX: Final = "wearon-test-nginx:dev"
VPS: Final = "wearon-test-vps:dev"


def _build(tag: str, dockerfile: str) -> None:
    docker(
        "build",
        "-q",
        "-t",
        tag,
        "--build-arg",
        f"BASE={BASE_IMAGE}",
        "-f",
        f"tests/containers/{dockerfile}",
        ".",
    )


def _derive(service: str, version: str, *lines: str) -> str:
    """An image that differs from the built one by its name and `lines`."""
    tag = f"{IMAGES[service].partition(':')[0]}:{version}"
    text = "\n".join([f"FROM {IMAGES[service]}", f"LABEL wearon.test={version}", *lines])
    subprocess.run(
        ["docker", "build", "-q", "-t", tag, "-"], input=text, text=True, check=True, capture_output=True
    )
    return tag


@dataclass
class Server:
    """The container that plays the server, and the application's side of what runs there."""

    directory: Path
    project: str
    ssh_options: str
    port: int
    https_port: int
    database_url: str
    app: NextApp
    stack: ComposeStack

    def ship(
        self, *arguments: str, scale: str = "generator=2", ready_seconds: int = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run deploy/ship with these arguments."""
        env = {
            "DATABASE_URL": self.database_url,
            "REMOTE_DIR": str(self.directory),
            "SSH_OPTIONS": self.ssh_options,
            "WEARON_PULL": "0",
            "WEARON_PROJECT": self.project,
            "WEARON_SCALE": scale,
            "READY_SECONDS": str(ready_seconds),
        }
        started = time.monotonic()
        done = subprocess.run(
            [str(ROOT / "deploy" / "ship"), "root@127.0.0.1", *arguments],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        took = time.monotonic() - started
        print(f"\nship {' '.join(arguments)}: exit {done.returncode} after {took:.0f} s\n{done.stderr}")
        return done

    def containers(self, service: str) -> list[str]:
        """Running containers of a service of this project."""
        label = "label=com.docker.compose"
        found = docker(
            "ps",
            "-q",
            "--filter",
            f"{label}.project={self.project}",
            "--filter",
            f"{label}.service={service}",
        )
        return found.split()

    def images(self) -> dict[str, set[str]]:
        """What each service runs on."""
        return {s: {inspect(c)["Config"]["Image"] for c in self.containers(s)} for s in SERVICES}

    def estimate(self, client: httpx.Client, url: str) -> int:
        """The status of one sizing request through nginx."""
        return client.post("/estimate-body", json={"image_url": url, "height_cm": 175}).status_code

    def client(self) -> httpx.Client:
        """A caller of the sizing API from outside, who does not mind the certificate."""
        return httpx.Client(base_url=f"https://127.0.0.1:{self.https_port}", verify=False, timeout=10)

    def begin_job(self, user: Any, urls: list[str]) -> Job:
        """Deduct, write the row, push."""
        job = self.app.b2c_job(user, image_urls=urls)
        self.app.push(job)
        return job


@pytest.fixture(scope="module")
def server(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started, and prepared as docs/deployment.md says; nothing deployed yet."""
    for image, dockerfile in ((NGINX, "nginx.Dockerfile"), (VPS, "vps.Dockerfile")):
        _build(image, dockerfile)
    for service in SERVICES:
        stack.project("stop", "--timeout", "20", service)
    # One directory with the same name here and there: the engine that mounts parts of it is the host's.
    directory = tmp_path_factory.mktemp("wearon-server")
    home = tmp_path_factory.mktemp("deployer")
    port, http_port, https_port, redis_port = (free_port() for _ in range(4))
    password = secrets.token_hex(12)
    project = f"wearon-dry-{secrets.token_hex(3)}"
    _prepare(directory, stack, project, password, (http_port, https_port, redis_port))
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "key")])
    vps = docker(
        *("run", "--detach", "--publish", f"127.0.0.1:{port}:22"),
        *(
            "--volume",
            "/var/run/docker.sock:/var/run/docker.sock",
            "--volume",
            f"{directory}:{directory}",
            VPS,
        ),
    )
    docker("cp", str(home / "key.pub"), f"{vps}:/root/.ssh/authorized_keys")
    docker("exec", vps, "chown", "root:root", "/root/.ssh/authorized_keys")
    host_key = docker("exec", vps, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    app = NextApp(
        database_url=stack.app.database_url,
        redis_url=f"redis://:{password}@127.0.0.1:{redis_port}/0",
        gateway_url=stack.gateway_url,
        service_role_key=stack.app.service_role_key,
        jwt_secret=stack.app.jwt_secret,
        bucket="images",
    )
    options = f"-p {port} -i {home / 'key'} -o UserKnownHostsFile={home / 'known_hosts'}"
    yield Server(directory, project, options, port, https_port, stack.app.database_url, app, stack)
    app.close()
    left = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project}").split()
    docker("rm", "-f", "-v", vps, *left)
    for kind in ("network", "volume"):
        for name in docker(
            kind, "ls", "-q", "--filter", f"label=com.docker.compose.project={project}"
        ).split():
            docker(kind, "rm", name)


def _prepare(
    directory: Path, stack: ComposeStack, project: str, password: str, ports: tuple[int, int, int]
) -> None:
    for folder in ("env", "certs", "acme"):
        (directory / folder).mkdir()
    directory.chmod(0o755)
    redis_url = f"REDIS_URL=redis://:{password}@own-redis:6379/0\n"
    supabase = f"SUPABASE_URL=http://gateway:8100\nSUPABASE_PUBLIC_URL={stack.gateway_url}\n"
    keys = f"SUPABASE_SERVICE_ROLE_KEY={stack.app.service_role_key}\nOPENAI_API_KEY=sk-stand-in\n"
    files = {
        "env/consumer.env": redis_url,
        "env/generator.env": redis_url + supabase + keys + "OPENAI_BASE_URL=http://openai:8200/v1\n",
        "env/sizing-api.env": redis_url + supabase + "SIZING_WORKERS=1\n",
        "env/redis.env": f"REDIS_PASSWORD={password}\n",
        ".env": f"EDGE_IMAGE={NGINX}\nEDGE_HTTP_PORT={ports[0]}\nEDGE_HTTPS_PORT={ports[1]}\n",
        # The stand-ins of Supabase and OpenAI run in another project; Redis is reached by the producer.
        "compose.override.yml": f"""
services:
  consumer: {{networks: [jobs]}}
  generator: {{networks: [jobs, outside]}}
  sizing-api: {{networks: [edge, jobs, outside]}}
  redis:
    user: "{docker("run", "--rm", "--entrypoint", "id", "redis:7-bookworm", "-u", "redis")}"
    networks: {{jobs: {{aliases: [own-redis]}}}}
    ports: ["127.0.0.1:{ports[2]}:6379"]
networks:
  outside: {{external: true, name: {stack.project.name}_default}}
""",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    certificate = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    certs = directory / "certs"
    run([*certificate, "-keyout", str(certs / "privkey.pem"), "-out", str(certs / "fullchain.pem")])
    for file in certs.iterdir():
        file.chmod(0o644)


def test_first_deployment(server: Server) -> None:
    """Migrations, own Redis, three services and nginx; a job and a size; nothing else listens outside."""
    images = [_derive(service, "dry1") for service in SERVICES]
    assert server.ship(*images).returncode == 0
    assert {s: len(server.containers(s)) for s in SERVICES} == {
        "consumer": 1,
        "generator": 2,
        "sizing-api": 1,
    }
    user = server.app.create_user()
    urls = server.app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_PERSON])
    job = server.begin_job(user, urls)
    (row,) = server.app.wait_settled(job, timeout=60)
    assert row["status"] == "completed"
    with server.client() as client:
        assert server.estimate(client, urls[0]) == 200
        assert client.get("/health").json()["redis_connected"] is True
        assert [client.get(path).status_code for path in ("/metrics", "/ready", "/docs", "/")] == [404] * 4
        assert client.post("/estimate-body", content=b"x" * 20_000).status_code == 413
    edge, redis = (server.containers(name)[0] for name in ("edge", "redis"))
    published = {
        name: sorted(inspect(container)["NetworkSettings"]["Ports"])
        for service in (*SERVICES, "edge")
        for container in server.containers(service)
        for name in [service]
        if any(inspect(container)["NetworkSettings"]["Ports"].values())
    }
    assert published == {"edge": ["8080/tcp", "8443/tcp"]}
    for container in (edge, redis, *(server.containers(s)[0] for s in SERVICES)):
        host = inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["Memory"] > 0
        assert host["LogConfig"]["Config"]["max-size"] == "20m"


@dataclass
class Load:
    """Sizing requests and try-ons, one after the other, until told to stop."""

    server: Server
    statuses: Counter[str] = field(default_factory=Counter)
    jobs: list[Job] = field(default_factory=list)
    slowest: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Start both, wait for the end, raise nothing: what went wrong is in `statuses`."""
        user = self.server.app.create_user(credits=1000)
        urls = self.server.app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_PERSON])
        threads = [
            threading.Thread(target=self._size, args=(urls[0],)),
            threading.Thread(target=self._try_on, args=(user, urls)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _size(self, url: str) -> None:
        while not self.stop.wait(0.15):
            # A new connection each time, as the next caller would make it.
            with self.server.client() as client:
                started = time.monotonic()
                try:
                    self.statuses[str(self.server.estimate(client, url))] += 1
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                self.slowest = max(self.slowest, time.monotonic() - started)

    def _try_on(self, user: Any, urls: list[str]) -> None:
        while not self.stop.wait(0.5):
            self.jobs.append(self.server.begin_job(user, urls))


def test_upgrade_under_load(server: Server) -> None:
    """No sizing request fails, every job completes with one picture each, and all run on the new images."""
    server.stack.set_latency(4)
    load = Load(server)
    loading = threading.Thread(target=load.run)
    calls_before = server.stack.provider_calls()
    loading.start()
    try:
        wait_until(lambda: len(load.jobs) >= 4, timeout=60, what="load")
        done = server.ship(*(_derive(service, "dry2") for service in SERVICES))
    finally:
        load.stop.set()
        loading.join()
    assert done.returncode == 0
    rows = server.app.wait_settled(*load.jobs, timeout=120)
    print(f"{len(rows)} jobs; sizing {dict(load.statuses)}, slowest {load.slowest:.2f} s")
    assert Counter(row["status"] for row in rows) == {"completed": len(load.jobs)}
    assert server.stack.provider_calls() - calls_before == len(load.jobs)
    assert set(load.statuses) == {"200"}
    assert load.slowest < 5
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry2"} for s in SERVICES}


def test_failing_upgrade_goes_back(server: Server) -> None:
    """A generator that never becomes ready: ship ends with 1, and everything is as before and works."""
    before = server.containers("generator")
    broken = _derive("generator", "dry3", 'CMD ["python", "-c", "import time; time.sleep(900)"]')
    images = [_derive("consumer", "dry3"), broken, _derive("sizing-api", "dry3")]
    assert server.ship(*images, ready_seconds=10).returncode == 1
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry2"} for s in SERVICES}
    assert sorted(server.containers("generator")) == sorted(before), "the old generators were touched"
    user = server.app.create_user()
    job = server.begin_job(user, server.app.upload_inputs(user, [SAMPLE_PERSON, SAMPLE_PERSON]))
    assert server.app.wait_settled(job, timeout=60)[0]["status"] == "completed"


def test_back_by_hand(server: Server) -> None:
    """`--back` brings the images before the last successful deployment into service."""
    assert server.ship("--back").returncode == 0
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry1"} for s in SERVICES}


def test_a_key_in_the_wrong_place_is_refused(server: Server) -> None:
    """The consumer's env file must not hold the OpenAI key."""
    file = server.directory / "env" / "consumer.env"
    text = file.read_text()
    file.write_text(text + "OPENAI_API_KEY=sk-something\n")
    assert server.ship("--back").returncode != 0
    file.write_text(text)
