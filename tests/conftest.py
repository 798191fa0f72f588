"""What all tests share: short socket paths, real daemons, both async backends."""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from tests.daemons import Daemon

# A busy machine stops a process for longer than the 0.2 s that an example may take otherwise.
hypothesis.settings.register_profile("busy machine", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("busy machine")

# Hundreds of daemons and callers are started here: each would compile all of its modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = Path("/dev/shm")
MIN_FREE_BYTES = 1 << 30


def is_usable(directory: Path) -> bool:
    """Return whether a directory may be written, has room for the files of a whole run, and lets scripts run."""
    if not os.access(directory, os.W_OK):
        return False

    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize >= MIN_FREE_BYTES and not found.f_flag & os.ST_NOEXEC


# `tmp_path` is in memory where that is possible: on a disk each of the thousands of fsyncs takes 4 ms.
if is_usable(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# A shell starts what runs in its background with interrupts ignored, which all processes started here would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have ``--faults``."""
    parser.addoption("--faults", action="store_true", help="tell what was injected, case by case, and what was lost")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the garbage collector what lives until the end of the run: thousands of test items, and all modules.

    Many tests collect, explicitly or by what they allocate, and each full collection would visit all of it: half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Let all clients of httpx use one TLS context: each reads the certificates of all authorities, for 20 ms."""
    import httpx  # noqa: PLC0415 - not at the start of pytest, which may only list tests
    from httpx._transports import default  # noqa: PLC0415 - as above

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="module")
def spared_heap() -> None:
    """Spare the garbage collector what earlier tests have left: for modules whose tests collect explicitly."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def patient_clients() -> Iterator[None]:
    """Let the clients of a module wait 10 seconds for their daemon, unless a test asks for another limit.

    For modules whose subject is not that limit: at its default, half a second, a busy machine turns their hits into fallbacks.
    """
    from sidecard_client.call.base_client import BaseClient  # noqa: PLC0415 - not at the start of pytest

    defaults = BaseClient.__init__.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "daemon_timeout", 10.0)
        yield


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run async tests on both backends; a test that is about one of them overrides this."""
    backend: str = request.param
    return backend


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """Make a directory with a short name: a socket's path may have 107 bytes, which `tmp_path` can exceed."""
    directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def socket_path(socket_directory: Path) -> str:
    """Name a socket that does not exist yet."""
    return str(socket_directory / "s.sock")


@pytest.fixture
def daemon(socket_path: str) -> Iterator[Callable[..., Daemon]]:
    """Start real daemons: ``daemon(*flags, **environ)`` returns one that answers; all end with the test.

    The first listens at ``socket_path``, further ones beside it.
    """
    yield from _daemons(socket_path)


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[Callable[..., Daemon]]:
    """As `daemon`, for a daemon that the tests of a module share: `Daemon.purge` it before each."""
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp") as directory:
        yield from _daemons(f"{directory}/m.sock")


def _daemons(socket_path: str) -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def start(*flags: str, **environ: str) -> Daemon:
        path = f"{socket_path}.{len(started)}" if started else socket_path
        started.append(Daemon(path, *flags, **environ))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")

    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)
