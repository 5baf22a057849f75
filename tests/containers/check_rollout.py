"""A dry run of the deployment: `deploy/ship` over SSH to a container that plays the server.

In this order: first deployments that cannot work and one that does, an upgrade under load, one that fails and
goes back, one that is killed, one taken back by hand, changes of the edge. Every interleaving of two rollouts
and a kill is tried in tests/rollout, on a stand-in of the engine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.containers.conftest import ComposeStack
from tests.containers.engine import (
    BASE_IMAGE,
    IMAGES,
    ROOT,
    docker,
    inspect,
    remove_derived_images,
    run,
    run_detached,
)

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
    http_port: int
    https_port: int
    database_url: str
    app: NextApp
    stack: ComposeStack

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the server."""
        argv = ["ssh", *self.ssh_options.split(), "root@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)

    def on_server(self, command: str) -> str:
        """What a command prints that is run in the server's folder, with nothing set; it must succeed."""
        done = self.ssh(f"cd {self.directory} && WEARON_PROJECT={self.project} WEARON_PULL=0 {command}")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def state(self) -> dict[str, str]:
        """images.env."""
        file = self.directory / "images.env"
        return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}

    def ship(
        self,
        *arguments: str,
        scale: str = "generator=2",
        ready_seconds: int = 300,
        deploy: Path = ROOT / "deploy",
    ) -> subprocess.CompletedProcess[str]:
        """Run ship of this folder with these arguments."""
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
            [str(deploy / "ship"), "root@127.0.0.1", *arguments],
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
    _prepare(directory, stack, password, (http_port, https_port, redis_port))
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "key")])
    volume = f"{directory}:{directory}"
    socket = "/var/run/docker.sock:/var/run/docker.sock"
    vps = run_detached("-p", f"127.0.0.1:{port}:22", "-v", socket, "-v", volume, VPS)
    app = NextApp(
        database_url=stack.app.database_url,
        redis_url=f"redis://:{password}@127.0.0.1:{redis_port}/0",
        gateway_url=stack.gateway_url,
        service_role_key=stack.app.service_role_key,
        jwt_secret=stack.app.jwt_secret,
        bucket="images",
    )
    try:
        docker("cp", str(home / "key.pub"), f"{vps}:/root/.ssh/authorized_keys")
        docker("exec", vps, "chown", "root:root", "/root/.ssh/authorized_keys")
        host_key = docker("exec", vps, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
        (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
        options = f"-p {port} -i {home / 'key'} -o UserKnownHostsFile={home / 'known_hosts'}"
        yield Server(directory, project, options, http_port, https_port, stack.app.database_url, app, stack)
    finally:
        app.close()
        of_project = ("--filter", f"label=com.docker.compose.project={project}")
        docker("rm", "-f", "-v", vps, *docker("ps", "-aq", *of_project).split())
        for kind in ("network", "volume"):
            for name in docker(kind, "ls", "-q", *of_project).split():
                docker(kind, "rm", name)
        remove_derived_images()


def _prepare(directory: Path, stack: ComposeStack, password: str, ports: tuple[int, int, int]) -> None:
    # As docs/deployment.md says.
    for folder, mode in ((".", 0o750), ("env", 0o750), ("certs", 0o750), ("acme", 0o755)):
        (directory / folder).mkdir(exist_ok=True)
        (directory / folder).chmod(mode)
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
    os.chown(certs, -1, 101)
    for file in certs.iterdir():
        os.chown(file, 101, 101)
        file.chmod(0o400)


def _dry(version: str) -> list[str]:
    return [_derive(service, version) for service in SERVICES]


@pytest.mark.parametrize(
    ("folder", "group", "mode", "said"),
    [("certs", 0, 0o750, "cannot read certs"), ("acme", 0, 0o750, "cannot enter acme")],
)
def test_first_deployment_with_an_edge_that_cannot_work(
    server: Server, folder: str, group: int, mode: int, said: str
) -> None:
    """It says which folder is to blame, that nothing is in service, and leaves nothing behind."""
    path = server.directory / folder
    before = path.stat()
    os.chown(path, -1, group)
    path.chmod(mode)
    done = server.ship(*_dry("dry1"))
    os.chown(path, -1, before.st_gid)
    path.chmod(before.st_mode & 0o777)
    assert done.returncode == 1
    assert said in done.stderr
    assert "this was the first deployment, nothing is in service" in done.stderr
    assert server.images() == {s: set() for s in SERVICES}
    assert server.containers("edge") == []
    assert server.state() == {}


def test_first_deployment_brings_up_everything(server: Server) -> None:
    """Migrations, own Redis, three services and nginx; a job and a size; nothing else listens outside."""
    assert server.ship(*_dry("dry1")).returncode == 0
    status = server.on_server("./rollout --status").splitlines()
    assert sorted(line.split()[0] for line in status if line.endswith(" ready")) == sorted(
        ["consumer", "generator", "generator", "sizing-api", "edge", "redis"]
    )
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
        wait_until(lambda: server.estimate(client, urls[0]) == 200, timeout=60, what="a size", every=1)
        photo = {"image_url": urls[0], "purpose": "try_on"}
        assert client.post("/check-photo", json=photo).json()["usable"] is True
        assert client.post("/estimate-without-photo", json={"height_cm": 175}).status_code == 200
        assert client.get("/health").json()["redis_connected"] is True
        assert [client.get(path).status_code for path in ("/metrics", "/ready", "/docs", "/")] == [404] * 4
        assert client.post("/estimate-body", content=b"x" * 140_000).status_code == 413
    challenge = server.directory / "acme/.well-known/acme-challenge/token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("of the certificate authority")
    answer = httpx.get(f"http://127.0.0.1:{server.http_port}/.well-known/acme-challenge/token")
    assert (answer.status_code, answer.text) == (200, "of the certificate authority")
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


@contextmanager
def _under_load(server: Server) -> Iterator[Load]:
    """Sizing requests and try-ons of 4 s all the while; at the end none of them may have failed."""
    server.stack.set_latency(4)
    load = Load(server)
    loading = threading.Thread(target=load.run)
    loading.start()
    try:
        wait_until(lambda: len(load.jobs) >= 4, timeout=60, what="load")
        yield load
    finally:
        load.stop.set()
        loading.join()
    rows = server.app.wait_settled(*load.jobs, timeout=120)
    print(f"{len(rows)} jobs; sizing {dict(load.statuses)}, slowest {load.slowest:.2f} s")
    assert Counter(row["status"] for row in rows) == {"completed": len(load.jobs)}
    assert set(load.statuses) == {"200"}
    assert load.slowest < 5


def test_upgrade_under_load_and_a_second_one_at_once(server: Server) -> None:
    """No sizing request fails, each job completes with one picture; the second changes nothing."""
    calls_before = server.stack.provider_calls()
    refused: list[subprocess.CompletedProcess[str]] = []

    def second() -> None:
        wait_until(lambda: len(server.containers("consumer")) > 1, timeout=300, what="first upgrade")
        refused.append(server.ship(*_dry("dry9")))

    with _under_load(server) as load:
        other = threading.Thread(target=second)
        other.start()
        done = server.ship(*_dry("dry2"))
        other.join()
    assert done.returncode == 0
    assert [one.returncode for one in refused] == [1]
    assert "another rollout, start or stop is running; nothing was changed" in refused[0].stderr
    assert server.stack.provider_calls() - calls_before == len(load.jobs)
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry2"} for s in SERVICES}
    state = server.state()
    assert [state[f"{name}_IMAGE"] for name in ("CONSUMER", "GENERATOR", "SIZING")] == _dry("dry2")


def test_failing_upgrade_goes_back(server: Server) -> None:
    """A generator that never becomes ready, under load: ship ends with 1, and everything is as before."""
    before = server.containers("generator")
    broken = _derive("generator", "dry3", 'CMD ["python", "-c", "import time; time.sleep(900)"]')
    images = [_derive("consumer", "dry3"), broken, _derive("sizing-api", "dry3")]
    with _under_load(server):
        assert server.ship(*images, ready_seconds=20).returncode == 1
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry2"} for s in SERVICES}
    assert sorted(server.containers("generator")) == sorted(before), "the old generators were touched"


def test_killed_rollout_is_taken_back(server: Server) -> None:
    """Killed beside two sets of generators, under load: images.env is right, --back leaves one set."""
    before = server.state()
    killed: list[str] = []

    def kill() -> None:
        wait_until(lambda: len(server.containers("generator")) > 2, timeout=300, what="new generators")
        killed.append(server.ssh("pkill -KILL -o -f '/rollout '").stderr)

    killer = threading.Thread(target=kill)
    killer.start()
    with _under_load(server):
        assert server.ship(*_dry("dry4")).returncode != 0
        killer.join()
        assert killed == [""]
        state = server.state()
        assert state["CONSUMER_IMAGE"].endswith(":dry4")
        assert state["GENERATOR_IMAGE"] == before["GENERATOR_IMAGE"]
        assert server.images()["consumer"] == {state["CONSUMER_IMAGE"]}
        status = server.ssh(f"WEARON_PROJECT={server.project} {server.directory}/wearon ps")
        assert status.returncode == 1
        assert "left over by a rollout that was killed" in status.stdout
        # Until what compose was still doing has ended, the lock is its.
        wait_until(lambda: server.ship("--back").returncode == 0, timeout=60, what="back", every=1)
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry2"} for s in SERVICES}
    assert len(server.containers("generator")) == 2


def test_back_brings_the_images_of_before(server: Server) -> None:
    """`--back` brings the images before the last successful deployment into service."""
    assert server.ship("--back").returncode == 0
    assert server.images() == {s: {f"{IMAGES[s].partition(':')[0]}:dry1"} for s in SERVICES}


def test_operators_commands_act_on_the_server(server: Server) -> None:
    """Stop and start, a log, a command in a container, wearonctl; new keys with the scale that was."""
    assert "stopped" in server.on_server("./wearon stop consumer")
    assert server.containers("consumer") == []
    assert "consumer stopped by hand" in server.on_server("./wearon ps")
    server.on_server("./wearon start consumer")
    assert len(server.containers("consumer")) == 1
    assert "consumer_started" in server.on_server("./wearon logs consumer --tail 50")
    assert "PONG" in server.on_server(
        "./wearon exec redis sh -c 'REDISCLI_AUTH=$REDIS_PASSWORD redis-cli ping'"
    )
    assert "waiting" in server.on_server("./wearon ctl status")
    before = server.containers("generator")
    server.on_server("./rollout --same")
    after = server.containers("generator")
    assert len(after) == 2
    assert not set(after) & set(before)


def test_changes_of_the_edge_arrive(server: Server, tmp_path: Path) -> None:
    """A changed nginx.conf by a reload, in the same container; a new image by a new one."""
    deploy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", deploy, ignore=shutil.ignore_patterns("local", "node_modules"))
    conf = deploy / "nginx/nginx.conf"
    conf.write_text(
        conf.read_text().replace("location / { return 404; }\n  }\n}", "location / { return 410; }\n  }\n}")
    )
    before = server.containers("edge")
    images = [server.state()[f"{name}_IMAGE"] for name in ("CONSUMER", "GENERATOR", "SIZING")]
    assert server.ship(*images, deploy=deploy).returncode == 0
    with server.client() as client:
        assert client.get("/").status_code == 410
    assert server.containers("edge") == before
    subprocess.run(
        ["docker", "build", "-q", "-t", NGINX, "-"],
        input=f"FROM {NGINX}\nLABEL wearon.test=newer",
        text=True,
        check=True,
        capture_output=True,
    )
    server.on_server("./rollout --only edge")
    assert server.containers("edge") != before
    with server.client() as client:
        assert client.get("/health").status_code == 200


def test_own_redis_obeys_sigterm(server: Server) -> None:
    """It writes what it has and ends with 0, long before it would be killed."""
    (redis,) = server.containers("redis")
    started = time.monotonic()
    server.on_server("./wearon stop redis")
    assert inspect(redis)["State"]["ExitCode"] == 0
    assert time.monotonic() - started < 10
    server.on_server("./wearon start redis")
    assert server.containers("redis") == [redis[:12]]


def test_a_key_in_the_wrong_place_is_refused(server: Server) -> None:
    """The consumer's env file must not hold the OpenAI key; nothing is changed then."""
    file = server.directory / "env" / "consumer.env"
    text, before = file.read_text(), server.state()
    file.write_text(text + "OPENAI_API_KEY=sk-something\n")
    done = server.ship(*_dry("dry2"))
    file.write_text(text)
    assert done.returncode == 2
    assert "env/consumer.env must not hold" in done.stderr
    assert server.state() == before
