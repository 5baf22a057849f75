"""deploy/rollout on a stand-in of Docker: killed at each change it makes, and met by a second one there.

tests/containers/check_rollout.py does the same on a real engine, at a few of these points.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

# Some tests run a hundred rollouts.
pytestmark = pytest.mark.timeout(900)

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final = {"consumer": "CONSUMER", "generator": "GENERATOR", "sizing-api": "SIZING"}
SCALE: Final = {"consumer": 1, "generator": 2, "sizing-api": 1}
COPIED: Final = (
    "compose.prod.yml",
    "compose.redis.yml",
    "compose.monitoring.yml",
    "nginx",
    "rollout",
    "server.sh",
    "wearon",
)


def _copy(to: Path) -> None:
    """What deploy/ship copies."""
    for name in COPIED:
        source = ROOT / "deploy" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, to / name)


@dataclass
class Container:
    """As the stand-in writes it down."""

    service: str
    status: str
    image: str
    label: str = ""

    def __post_init__(self) -> None:
        self.label = self.label.strip()


@dataclass
class Machine:
    """A folder that is /opt/wearon, and beside it the engine's containers."""

    folder: Path

    @classmethod
    def empty(cls, folder: Path) -> Machine:
        """Prepared as docs/deployment.md says, with the programs that stand in."""
        (folder / "bin").mkdir(parents=True)
        for name in ("docker", "mv"):
            (folder / "bin" / name).symlink_to(ROOT / "tests/rollout/docker-standin")
        # What is waited for on a real engine has happened here already.
        (folder / "bin" / "sleep").symlink_to("/bin/true")
        (folder / "wearon" / "env").mkdir(parents=True)
        for service in SERVICES:
            (folder / "wearon" / "env" / f"{service}.env").write_text("REDIS_URL=redis://redis:6379/0\n")
        return cls(folder)

    def copy(self, name: str) -> Machine:
        """The same machine once more, beside this one."""
        to = self.folder.parent / name
        shutil.copytree(self.folder, to, symlinks=True)
        return Machine(to)

    @property
    def home(self) -> Path:
        return self.folder / "wearon"

    def command(self, *arguments: str, new_files: str | None = None) -> str:
        """A shell command for rollout; `new_files`: out of a copy whose nginx.conf ends with this."""
        start = self.home
        if new_files is not None:
            start = Path(tempfile.mkdtemp(prefix="incoming.", dir=self.home))
            _copy(start)
            with (start / "nginx/nginx.conf").open("a") as conf:
                conf.write(f"# {new_files}\n")
        settings = {
            "WEARON_DIR": str(self.home),
            "READY_SECONDS": "0",
            "WEARON_SCALE": f"generator={SCALE['generator']}",
        }
        words = ["env", *(f"{name}={value}" for name, value in settings.items())]
        return shlex.join([*words, str(start / "rollout"), *arguments])

    def run(self, command: str, *, at: int = 0, do: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command; at its change number `at` happens `do`."""
        for name in ("count", "trace", "met.exit", "met.said"):
            (self.folder / name).unlink(missing_ok=True)
        env = {**os.environ, "STANDIN": str(self.folder), "STANDIN_AT": str(at), "STANDIN_DO": do}
        env["PATH"] = f"{self.folder / 'bin'}:{env['PATH']}"
        return subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)

    def read(self, name: str) -> list[str]:
        """The lines of a file that the stand-in wrote."""
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def containers(self) -> dict[str, Container]:
        """By their ids."""
        files = (self.folder / "containers").glob("*")
        return {file.name: Container(*file.read_text().split(maxsplit=3)) for file in files}

    def state(self) -> dict[str, str]:
        """images.env."""
        file = self.home / "images.env"
        lines = file.read_text().splitlines() if file.exists() else []
        return dict(line.split("=", 1) for line in lines)

    def images(self) -> dict[str, list[str]]:
        """What each service runs on, one entry per running container."""
        found: dict[str, list[str]] = {}
        for container in self.containers().values():
            if container.status == "running":
                found.setdefault(container.service, []).append(container.image)
        return {service: sorted(images) for service, images in found.items()}

    def assert_state_names_what_runs(self) -> None:
        """Each service of images.env runs, ready, on the image named there and as often as it says."""
        state, running = self.state(), self.containers().values()
        for service, name in SERVICES.items():
            if f"{name}_IMAGE" in state:
                meant = Container(service, "running", state[f"{name}_IMAGE"], state[f"{name}_ROLLOUT"])
                assert sum(c == meant for c in running) == int(state[f"{name}_SCALE"]), (
                    service,
                    state,
                    running,
                )

    def assert_runs(self, version: str) -> None:
        """This version and nothing else runs, the state file says so, and nothing is left over."""
        expected = {service: [f"{service}:{version}"] * SCALE[service] for service in SERVICES}
        assert self.images() == {**expected, "edge": ["edge:1"]}
        self.assert_state_names_what_runs()
        assert all(self.state()[f"{name}_IMAGE"] == f"{s}:{version}" for s, name in SERVICES.items())
        assert not (self.home / "unfinished").exists()
        status = self.run(self.command("--status"))
        assert status.returncode == 0, status.stdout


def _version(version: str) -> list[str]:
    return [f"{service}:{version}" for service in SERVICES]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which version 1 runs; before it, version 0 did."""
    machine = Machine.empty(tmp_path_factory.mktemp("machines") / "deployed")
    for version in ("0", "1"):
        done = machine.run(machine.command(*_version(version), new_files=version))
        assert done.returncode == 0, done.stderr
        machine.assert_runs(version)
    return machine


def _changes(machine: Machine, *arguments: str, new_files: str | None = None) -> int:
    """How many changes this rollout makes when nothing disturbs it."""
    done = machine.run(machine.command(*arguments, new_files=new_files))
    assert done.returncode == 0, done.stderr
    return len(machine.read("trace"))


def test_service_is_never_without_a_ready_container(deployed: Machine) -> None:
    machine = deployed.copy("gap")
    assert machine.run(machine.command(*_version("2"), new_files="2")).returncode == 0
    for line in machine.read("trace"):
        what, *ready = line.rsplit(maxsplit=4)
        assert all(int(n) >= wanted for n, wanted in zip(ready, (*SCALE.values(), 1), strict=True)), what
    machine.assert_runs("2")
    assert not list(machine.home.glob("incoming.*")), "the copy was not removed"
    assert machine.run(machine.command("--back")).returncode == 0
    machine.assert_runs("1")


def test_going_back_to_a_version_without_lanes_empties_them_between_consumers_and_generators(
    deployed: Machine,
) -> None:
    machine = deployed.copy("lanes")
    for version in ("0.1", "2"):
        assert machine.run(machine.command(*_version(version), new_files=version)).returncode == 0
    assert not [line for line in machine.read("trace") if "lanes" in line]

    done = machine.run(machine.command("--back"))

    assert done.returncode == 0, done.stderr
    changes = [line.rsplit(maxsplit=4)[0] for line in machine.read("trace")]
    drained = changes.index("wearonctl lanes drain --yes")
    assert changes.index("up consumer") < changes.index("rm") < drained < changes.index("up generator")
    assert "FAILED" not in done.stderr
    machine.assert_runs("0.1")


@pytest.mark.slow
@pytest.mark.parametrize("then", ["same again", "another", "back"])
def test_rollout_killed_after_each_change(deployed: Machine, then: str) -> None:
    """The state file is right at once; what is done next ends in one whole version and can be undone."""
    count = _changes(deployed.copy(f"count {then}"), *_version("2"), new_files="2")
    assert count > 12

    def kill_at(change: int) -> None:
        machine = deployed.copy(f"killed {then} {change}")
        machine.run(machine.command(*_version("2"), new_files="2"), at=change, do="kill-after")
        machine.assert_state_names_what_runs()
        if then != "back":
            version = "2" if then == "same again" else "3"
            done = machine.run(machine.command(*_version(version), new_files=version))
            assert done.returncode == 0, done.stderr
            machine.assert_runs(version)
            assert f"# {version}\n" in (machine.home / "nginx/nginx.conf").read_text()
        done = machine.run(machine.command("--back"))
        assert done.returncode == 0, done.stderr
        back_to = machine.state()["CONSUMER_IMAGE"].partition(":")[2]
        # After its last change, version 2 was whole: it may be what another one goes back to.
        assert back_to == "1" or (change, then, back_to) == (count, "another", "2")
        machine.assert_runs(back_to)
        shutil.rmtree(machine.folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, range(1, count + 1)))


@pytest.mark.slow
def test_second_rollout_is_refused_at_each_change_of_the_first(deployed: Machine) -> None:
    """It changes nothing, and the first one ends as if alone."""
    count = _changes(deployed.copy("count-second"), *_version("2"), new_files="2")

    def meet_at(change: int) -> None:
        machine = deployed.copy(f"second-{change}")
        first = machine.command(*_version("2"), new_files="2")
        second = machine.command(*_version("3"), new_files="3") if change % 2 else machine.command("--back")
        done = machine.run(first, at=change, do=second)
        assert done.returncode == 0, done.stderr
        assert machine.read("met.exit") == ["1"]
        assert "another rollout" in machine.read("met.said")[-1]
        machine.assert_runs("2")
        assert "# 2\n" in (machine.home / "nginx/nginx.conf").read_text()
        assert machine.run(machine.command("--back")).returncode == 0
        machine.assert_runs("1")
        shutil.rmtree(machine.folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(meet_at, range(1, count + 1)))


@pytest.mark.parametrize("broken", SERVICES)
def test_rollout_with_a_broken_image_goes_back(deployed: Machine, broken: str) -> None:
    machine = deployed.copy(f"broken-{broken}")
    images = [image + ("broken" if image.startswith(broken) else "") for image in _version("2")]
    done = machine.run(machine.command(*images, new_files="2"))
    assert done.returncode == 1
    assert "FAILED: what was before is in service" in done.stderr
    machine.assert_runs("1")
    assert "# 2\n" not in (machine.home / "nginx/nginx.conf").read_text()


@pytest.mark.parametrize("fault", ["invalid", "broken"])
def test_rollout_with_a_broken_edge_goes_back(deployed: Machine, fault: str) -> None:
    """Whether nginx refuses the configuration, or takes it and does not answer."""
    machine = deployed.copy(f"edge-{fault}")
    done = machine.run(machine.command(*_version("2"), new_files=fault))
    assert done.returncode == 1
    machine.assert_runs("1")
    assert f"# {fault}\n" not in (machine.home / "nginx/nginx.conf").read_text()


@pytest.mark.slow
def test_going_back_killed_at_each_change_can_be_repeated(deployed: Machine) -> None:
    """A broken sizing image, and a kill while consumer and generator go back."""
    images = [*_version("2")[:2], "sizing-api:broken"]
    counting = deployed.copy("count-going-back")
    counting.run(counting.command(*images, new_files="2"))
    count = len(counting.read("trace"))

    def kill_at(change: int) -> None:
        machine = deployed.copy(f"going-back-{change}")
        machine.run(machine.command(*images, new_files="2"), at=change, do="kill-after")
        machine.assert_state_names_what_runs()
        assert machine.run(machine.command(*_version("3"), new_files="3")).returncode == 0
        machine.assert_runs("3")
        shutil.rmtree(machine.folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, range(count // 2, count + 1)))


def test_first_deployment_that_fails_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    machine = Machine.empty(tmp_path / "first")
    images = [*_version("1")[:2], "sizing-api:broken"]
    done = machine.run(machine.command(*images, new_files="1"))
    assert done.returncode == 1
    assert "this was the first deployment, nothing is in service" in done.stderr
    assert machine.images() == {}
    assert machine.state() == {}
    assert machine.run(machine.command("--back")).returncode == 2
    assert machine.run(machine.command(*_version("2"), new_files="2")).returncode == 0
    machine.assert_runs("2")


@pytest.mark.slow
def test_first_deployment_killed_at_each_change(tmp_path: Path) -> None:
    empty = Machine.empty(tmp_path / "empty")
    count = _changes(empty.copy("count"), *_version("1"), new_files="1")

    def kill_at(change: int) -> None:
        machine = empty.copy(f"killed-{change}")
        machine.run(machine.command(*_version("1"), new_files="1"), at=change, do="kill-after")
        machine.assert_state_names_what_runs()
        if change % 2 and (machine.home / "rollout").exists():
            done = machine.run(machine.command("--back"))
            assert done.returncode in (0, 2), done.stderr
            assert machine.images() == {} or change == count
        else:
            done = machine.run(machine.command(*_version("2"), new_files="2"))
            assert done.returncode == 0, done.stderr
            machine.assert_runs("2")
        shutil.rmtree(machine.folder)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, range(1, count + 1)))


def test_one_service_alone_leaves_the_others_unstarted(tmp_path: Path) -> None:
    """The cut-over: sizing first, then the rest; back takes the rest away again."""
    machine = Machine.empty(tmp_path / "only")
    done = machine.run(machine.command("--only", "sizing-api", "sizing-api:1", new_files="1"))
    assert done.returncode == 0, done.stderr
    assert machine.images() == {"sizing-api": ["sizing-api:1"], "edge": ["edge:1"]}
    assert machine.run(machine.command(*_version("1"), new_files="1")).returncode == 0
    machine.assert_runs("1")
    assert machine.run(machine.command("--back")).returncode == 0
    assert machine.images() == {"sizing-api": ["sizing-api:1"], "edge": ["edge:1"]}


def test_scale_is_remembered_when_keys_are_rotated(deployed: Machine) -> None:
    machine = deployed.copy("rotated")
    before = set(machine.containers())
    done = machine.run(f"{machine.home}/rollout --same")
    assert done.returncode == 0, done.stderr
    machine.assert_runs("1")
    assert not before & {key for key, c in machine.containers().items() if c.service in SERVICES}
    assert machine.run(machine.command("--back")).returncode == 0
    machine.assert_runs("0")


def test_stopped_service_stays_stopped_through_a_rollout(deployed: Machine) -> None:
    machine = deployed.copy("stopped")
    wearon = machine.home / "wearon"
    assert machine.run(f"{wearon} stop generator").returncode == 0
    assert "generator" not in machine.images()
    assert machine.run(machine.command(*_version("2"), new_files="2")).returncode == 0
    assert "generator" not in machine.images()
    assert machine.run(f"{wearon} start generator").returncode == 0
    machine.assert_runs("2")


def test_changed_definition_replaces_the_edge(deployed: Machine) -> None:
    machine = deployed.copy("definition")
    (before,) = (key for key, c in machine.containers().items() if c.service == "edge")
    command = machine.command("--only", "edge", new_files="new")
    (copied,) = machine.home.glob("incoming.*")
    with (copied / "compose.prod.yml").open("a") as compose:
        compose.write("# a newer nginx\n")
    assert machine.run(command).returncode == 0
    (after,) = (key for key, c in machine.containers().items() if c.service == "edge")
    assert after != before
    assert machine.read(f"config.{after}")[-1] == "# new"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "SUPABASE_SERVICE_ROLE_KEY"])
def test_key_in_the_wrong_env_file_is_refused(deployed: Machine, name: str) -> None:
    machine = deployed.copy(f"key-{name}")
    with (machine.home / "env/consumer.env").open("a") as file:
        file.write(f"{name}=something\n")
    assert machine.run(machine.command(*_version("2"))).returncode == 2
    machine.assert_runs("1")


BROKEN_SIZING: Final = [*_version("2")[:2], "sizing-api:broken"]


def _with_a_disk_that_can_fill_up(machine: Machine) -> None:
    """Once the file `full` is there, a copied file is cut off at its beginning, as by cp on a full disk."""
    cp = machine.folder / "bin/cp"
    cp.write_text(
        '#!/bin/bash\n[ -e "$STANDIN/full" ] || exec /bin/cp "$@"\n'
        '[ ! -f "$2" ] || : >"${@: -1}"\necho "No space left on device" >&2\nexit 1\n'
    )
    cp.chmod(0o755)


@pytest.mark.parametrize(("images", "runs"), [(_version("2"), "2"), (BROKEN_SIZING, "1")])
def test_rollout_goes_on_to_its_end_when_nobody_hears_it_any_more(
    deployed: Machine, images: list[str], runs: str
) -> None:
    """As when the SSH connection breaks: it is done, or it has gone back, and is not left half way."""
    machine = deployed.copy(f"unheard-{runs}")
    command = machine.command(*images, new_files="2")
    assert machine.run(f"{{ {command}; }} 2>&1 | true; wait").returncode == 0
    machine.assert_runs(runs)


def test_disk_that_is_full_while_going_back_cuts_no_file_off(deployed: Machine) -> None:
    """It says that not everything could go back, and keeps what there is to go back to."""
    machine = deployed.copy("full-going-back")
    _with_a_disk_that_can_fill_up(machine)
    command = machine.command(*BROKEN_SIZING, new_files="2")
    done = machine.run(command, at=6, do=f"touch {machine.folder}/full")
    assert done.returncode == 1
    assert "not everything could go back" in done.stderr
    assert (machine.home / "nginx/nginx.conf").read_text().endswith("# 2\n")
    machine.assert_state_names_what_runs()
    (machine.folder / "full").unlink()
    assert machine.run(machine.command("--back")).returncode == 0
    machine.assert_runs("1")
    assert (machine.home / "nginx/nginx.conf").read_text().endswith("# 1\n")


def test_disk_that_is_full_from_the_beginning_changes_nothing(deployed: Machine) -> None:
    machine = deployed.copy("full")
    _with_a_disk_that_can_fill_up(machine)
    (machine.folder / "full").touch()
    done = machine.run(machine.command(*_version("2"), new_files="2"))
    assert (done.returncode, "nothing was changed" in done.stderr) == (1, True)
    machine.assert_runs("1")
    assert (machine.home / "nginx/nginx.conf").read_text().endswith("# 1\n")
    assert not list(machine.home.glob("**/*.new"))


def test_disk_that_fills_up_while_files_are_installed_changes_nothing(deployed: Machine) -> None:
    machine = deployed.copy("full-later")
    _with_a_disk_that_can_fill_up(machine)
    done = machine.run(
        machine.command(*_version("2"), new_files="2"), at=1, do=f"touch {machine.folder}/full"
    )
    assert (done.returncode, "what was before is in service" in done.stderr) == (1, True)
    machine.assert_runs("1")
    assert (machine.home / "nginx/nginx.conf").read_text().endswith("# 1\n")


def test_what_the_edge_reads_and_runs_is_open_to_it_whatever_the_umask(tmp_path: Path) -> None:
    machine = Machine.empty(tmp_path / "umask")
    command = machine.command(*_version("1"), new_files="1")
    (copied,) = machine.home.glob("incoming.*")
    for path in (copied, *copied.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    assert machine.run(f"umask 077; {command}").returncode == 0
    modes = {path.name: path.stat().st_mode & 0o005 for path in (machine.home / "nginx").iterdir()}
    assert modes == {"nginx.conf": 0o004, "ready": 0o005, "check": 0o005}
    assert (machine.home / "nginx").stat().st_mode & 0o005 == 0o005


def test_state_is_on_the_disk_before_old_containers_go(deployed: Machine) -> None:
    machine = deployed.copy("synced")
    sync = machine.folder / "bin/sync"
    sync.write_text('#!/bin/bash\necho "sync $*" >>"$STANDIN/trace"\n')
    sync.chmod(0o755)
    assert machine.run(machine.command(*_version("2"), new_files="2")).returncode == 0
    trace = [re.sub(r" \d+ \d+ \d+ \d+$", "", line) for line in machine.read("trace")]
    assert trace[:2] == ["sync -f unfinished.new", "mv unfinished"]
    stops = [index for index, what in enumerate(trace) if what == "stop"]
    assert len(stops) == len(SERVICES)
    for index in stops:
        assert trace[index - 3 : index] == ["sync images.env.new", "mv images.env", "sync ."]


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--only", "edge", "nginx:1.29"), "", "EDGE_IMAGE"),
        (("--same",), "READY_SECONDS=soon ", "READY_SECONDS"),
        (("--same",), "WEARON_SCALE=generator=08 ", "WEARON_SCALE"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_changes(
    deployed: Machine, words: tuple[str, ...], settings: str, said: str
) -> None:
    machine = deployed.copy(f"refused-{said}")
    done = machine.run(f"{settings}{machine.home}/rollout {shlex.join(words)}")
    assert (done.returncode, said in done.stderr) == (2, True)
    assert machine.read("trace") == []
    machine.assert_runs("1")


def test_status_before_the_first_deployment_says_so(tmp_path: Path) -> None:
    machine = Machine.empty(tmp_path / "nothing")
    _copy(machine.home)
    done = machine.run(f"{machine.home}/wearon ps")
    assert (done.returncode, done.stdout) == (0, "nothing is in service\n")


@pytest.mark.parametrize("script", ["rollout", "ship", "wearon", "cd", "migrate", "k8s/render"])
def test_help_is_the_head_of_the_script_and_nothing_else(script: str) -> None:
    """No code, and nothing is done, whatever the environment says."""
    environment = {**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    done = subprocess.run(
        [ROOT / "deploy" / script, "--help"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "")
    lines = done.stdout.splitlines()
    assert len(lines) > 4
    assert all(line.startswith("#") and "set -euo" not in line for line in lines)
