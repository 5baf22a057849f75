"""Prints the size of each image beside that of one image which holds all three services.

python -m tests.containers.sizes        (after `make images`; builds the fourth image itself)
"""

from __future__ import annotations

from tests.containers.engine import BASE_IMAGE, IMAGES, docker, inspect

ALL_IN_ONE = "wearon-all-in-one:dev"


def main() -> None:
    docker("build", "-q", "-f", "tests/containers/all-in-one.Dockerfile", "--build-arg", f"BASE={BASE_IMAGE}",
           "-t", ALL_IN_ONE, ".", timeout=1200)  # fmt: skip
    base = int(inspect(BASE_IMAGE)["Size"])
    print(f"{'image':<24}{'MB':>8}{'on top of the base':>22}")
    for name in (BASE_IMAGE, *IMAGES.values(), ALL_IN_ONE):
        size = int(inspect(name)["Size"])
        print(f"{name:<26}{size / 1e6:>6.1f}{(size - base) / 1e6:>22.1f}")


if __name__ == "__main__":
    main()
