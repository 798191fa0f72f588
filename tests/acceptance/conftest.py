"""The image that several modules run: built once."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.containers import BASE_IMAGE, BUILD, IMAGE, ROOT, RUN, make_base_image, must, pip_options, run


@pytest.fixture(scope="session")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base image, and the knowledge that this machine can run it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: debootstrap and chroot builds do")

    missing = [tool for tool in ("buildah", "podman", "runc", "debootstrap") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")

    if run("podman", "image", "exists", BASE_IMAGE).returncode:
        make_base_image(tmp_path_factory.mktemp("base"))

    probe = run(*RUN, "--rm", BASE_IMAGE, "true")
    if probe.returncode:
        pytest.skip(f"this machine runs no containers: {probe.stderr[-500:]}")

    return BASE_IMAGE


@pytest.fixture(scope="session")
def image(base_image: str) -> Iterator[str]:
    """The image that the Containerfile makes."""
    must(*BUILD, f"--build-arg=BASE_IMAGE={base_image}", *pip_options(), "-t", IMAGE, str(ROOT))
    yield IMAGE
    run("podman", "rmi", "--force", IMAGE)
