"""What the workflows run is in the Makefile or in deploy/, where tests run it; deploy/cd on stand-ins."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILES: Final = ("Makefile", "deploy/deploy.mk", "deploy/local/local.mk")
VERSION: Final = (ROOT / "VERSION").read_text().strip()
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


def _jobs() -> list[tuple[str, dict[str, Any]]]:
    found = [(file.name, yaml.safe_load(file.read_text())["jobs"]) for file in WORKFLOWS]
    return [(f"{name} {job}", content) for name, jobs in found for job, content in jobs.items()]


def test_steps_run_a_make_target_or_a_script_of_deploy() -> None:
    makefiles = "".join((ROOT / name).read_text() for name in MAKEFILES)
    commands = [step["run"] for _, job in _jobs() for step in job["steps"] if "run" in step]
    assert len(commands) > 8
    for command in commands:
        if command.startswith("make "):
            for target in command.split()[1:]:
                assert re.search(f"^{target}:", makefiles, re.MULTILINE), command
        elif not command.startswith("sudo apt-get "):
            script = re.match(r"(?:echo \"images=\$\()?(deploy/[a-z-]+)", command)
            assert script, f"belongs into a script: {command}"
            assert os.access(ROOT / script[1], os.X_OK)


def test_id_token_is_given_only_to_the_job_that_signs() -> None:
    for name, job in _jobs():
        signs = any("cd sign" in step.get("run", "") for step in job["steps"])
        assert ("id-token" in job["permissions"]) == signs, name


def _run(
    folder: Path,
    *arguments: str,
    unsigned: str = "nothing",
    released: str = "nothing",
    published: str = "nothing",
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """deploy/cd with stand-ins of docker, cosign, ssh, gh and npm, which note what they are asked."""
    stand_ins = {
        "docker": f"echo {DIGEST}",
        "cosign": f'case "$*" in *{unsigned}*) exit 1 ;; esac',
        "ssh": "cat >/dev/null; echo /opt/wearon/incoming.x",
        "gh": f'case "$*" in "release view {released}"*) ;; *view*) exit 1 ;; esac',
        "npm": f'case "$*" in "config get registry") echo https://npm.example/ ;; '
        f'"view @wearon/contracts@{published}"*) ;; view*) exit 1 ;; esac',
    }
    folder.mkdir(exist_ok=True)
    for name, text in stand_ins.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>"{folder}/asked"\n{text}\n')
        program.chmod(0o755)
    env = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(folder),
        "OWNER": "Shop-Ltd",
        "REVISION": "abc",
        "IDENTITY": "https://github.com/Shop-Ltd/x/.github/workflows/cd.yml@refs/heads/main",
        "SSH_KEY": "key",
        "SSH_KNOWN_HOSTS": "hosts",
        "SSH_HOST": "deploy@server",
        **more,
    }
    argv = [ROOT / "deploy/cd", *arguments]
    return subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_name_of_an_image_is_in_small_letters(tmp_path: Path) -> None:
    """As registries want it, whatever the owner is called."""
    assert _run(tmp_path, "name", "sizing-api").stdout == "image=ghcr.io/shop-ltd/wearon-sizing\n"


def test_all_images_of_a_revision_are_built_on_one_base_by_its_digest(tmp_path: Path) -> None:
    assert _run(tmp_path, "base").stdout == f"base=python:3.11-slim-bookworm@{DIGEST}\n"
    jobs = yaml.safe_load((ROOT / ".github/workflows/cd.yml").read_text())["jobs"]
    (build,) = (
        s for s in jobs["publish"]["steps"] if s.get("uses", "").startswith("docker/build-push-action")
    )
    assert "BASE=${{ needs.base.outputs.base }}" in build["with"]["build-args"].splitlines()
    bases = {
        re.findall(r"^ARG BASE=(.*)$", file.read_text(), re.MULTILINE)[0]
        for file in ROOT.glob("services/*/Dockerfile")
    }
    assert bases == {"python:3.11-slim-bookworm"}


def test_sbom_and_provenance_go_with_each_image_and_only_what_was_scanned_is_signed() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/cd.yml").read_text())["jobs"]["publish"]["steps"]
    names = [step.get("uses", step.get("run", "")).partition("@")[0] for step in steps]
    build, scan = names.index("docker/build-push-action"), names.index("anchore/scan-action")
    sign = next(index for index, name in enumerate(names) if name.startswith("deploy/cd sign"))
    assert build < scan < sign
    assert (steps[build]["with"]["sbom"], steps[build]["with"]["provenance"]) == (True, "mode=max")
    pushed = "${{ steps.name.outputs.image }}@${{ steps.push.outputs.digest }}"
    assert steps[scan]["with"]["image"] == steps[sign]["env"]["IMAGE"] == pushed


def test_fork_publishes_and_deploys_nothing_and_does_not_fail() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/cd.yml").read_text())["jobs"]
    assert jobs["publish"]["if"] == "!github.event.repository.fork"
    assert jobs["deploy"]["needs"] == "publish"


def test_deploy_ships_three_verified_digests(tmp_path: Path) -> None:
    done = _run(tmp_path, "deploy")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    images = [
        f"ghcr.io/shop-ltd/{n}@{DIGEST}" for n in ("wearon-consumer", "wearon-generator", "wearon-sizing")
    ]
    verified = [line.split()[-1] for line in asked if line.startswith("cosign verify --certificate-identity")]
    assert verified == images
    assert asked[-1].endswith("rollout' " + " ".join(images) + " ")
    assert (tmp_path / ".ssh/id_ed25519").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("image", ["wearon-consumer", "wearon-sizing"])
def test_deploy_refuses_an_unsigned_image(tmp_path: Path, image: str) -> None:
    done = _run(tmp_path, "deploy", unsigned=image)
    assert done.returncode != 0
    assert "ssh" not in (tmp_path / "asked").read_text().replace("cosign verify", "")


@pytest.fixture
def tarball() -> Iterator[str]:
    """The name of the packed package of this version, which is there as `make pack-npm` leaves it."""
    file = ROOT / f".local/npm/wearon-contracts-{VERSION}.tgz"
    file.parent.mkdir(parents=True, exist_ok=True)
    was_there = file.exists()
    file.touch()
    yield file.name
    if not was_there:
        file.unlink()


def test_package_is_released_and_published(tmp_path: Path, tarball: str) -> None:
    done = _run(tmp_path, "package", NPM_TOKEN="secret-token")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    assert re.search(rf"^gh release create v{VERSION} \S*{tarball} --target abc ", asked, re.MULTILINE)
    assert re.search(rf"^npm publish --access public \S*{tarball}$", asked, re.MULTILINE)
    assert (tmp_path / ".npmrc").read_text() == "//npm.example/:_authToken=secret-token\n"
    assert (tmp_path / ".npmrc").stat().st_mode & 0o777 == 0o600
    assert "secret-token" not in asked + done.stdout + done.stderr


@pytest.mark.usefixtures("tarball")
@pytest.mark.parametrize("token", [{}, {"NPM_TOKEN": ""}], ids=["unset", "empty"])
def test_package_without_a_token_is_released_and_not_published(tmp_path: Path, token: dict[str, str]) -> None:
    done = _run(tmp_path, "package", **token)
    assert (done.returncode, "skipped" in done.stdout) == (0, True)
    asked = (tmp_path / "asked").read_text()
    assert "gh release create" in asked
    assert "npm" not in asked.replace(".local/npm/", "")


@pytest.mark.usefixtures("tarball")
def test_package_of_a_version_that_is_out_is_left_alone(tmp_path: Path) -> None:
    done = _run(tmp_path, "package", released=f"v{VERSION}", published=VERSION, NPM_TOKEN="secret-token")
    assert done.returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert "create" not in asked
    assert "publish" not in asked


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("services/consumer/src/x.py", '["consumer"]'),
        ("packages/contracts/src/x.py", '["consumer","generator","sizing-api"]'),
        ("docs/x.md", "[]"),
    ],
)
def test_changed_images_names_those_a_change_concerns(tmp_path: Path, changed: str, expected: str) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-b", "main")
    git("commit", "--allow-empty", "-m", "base")
    git("checkout", "-b", "branch")
    (tmp_path / changed).parent.mkdir(parents=True)
    (tmp_path / changed).touch()
    git("add", ".")
    git("commit", "-m", "change")
    argv = [ROOT / "deploy/changed-images", "main"]
    done = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == expected
