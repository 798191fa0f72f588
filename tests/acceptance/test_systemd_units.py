"""The units as systemd reads them, without booting one (test_booted_systemd does): their grammar, their confinement, their numbers."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecard.sections import Cache, Flights, Limits, Socket
from sidecard_client.paths import SYSTEM_SOCKET

UNITS = Path(__file__).parents[2] / "systemd"
MAX_EXPOSURE = 1.0
"""Of 10. systemd's own resolved gets 2.1, and 0.4 is what the service had when this was written."""

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Copies whose command is one that exists here: where the daemon will be installed is not this machine's business."""
    command = shutil.which("true")
    assert command is not None
    copies = []
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text(encoding="utf-8").replace("/usr/local/bin/sidecard", command), encoding="utf-8")
        copies.append(str(copy))

    return copies


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


def section(unit: str, name: str) -> dict[str, str]:
    """Return one section of a unit; of a setting that is given several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep case
    parser.read(UNITS / unit, encoding="utf-8")
    return dict(parser[name])


@needs_systemd_analyze
def test_units_verify_without_a_word(units: list[str]) -> None:
    """Nothing in the units is unknown, misspelt or missing."""
    result = analyzed("verify", "--man=no", *units)
    # Complaints about the machine's other units are not ours.
    ours = [line for line in (result.stdout + result.stderr).splitlines() if "sidecard" in line]
    assert (result.returncode, ours) == (0, [])


@needs_systemd_analyze
def test_service_is_confined(units: list[str]) -> None:
    """The exposure that systemd computes stays below the threshold."""
    (service,) = (unit for unit in units if unit.endswith("sidecard.service"))
    result = analyzed("security", "--offline=true", "--no-pager", f"--threshold={int(MAX_EXPOSURE * 10)}", service)
    assert result.returncode == 0, "\n".join(line for line in result.stdout.splitlines() if not line.startswith("✓"))


def test_socket_unit_binds_where_clients_look() -> None:
    """The unit's path, mode and backlog are the contract's."""
    socket = section("sidecard.socket", "Socket")
    assert socket["ListenStream"] == SYSTEM_SOCKET
    assert int(socket["SocketMode"], 8) == Socket().mode
    assert int(socket["Backlog"]) >= Limits().max_peers


def test_service_leaves_the_daemon_what_its_defaults_need() -> None:
    """Time to drain, memory for the cache and descriptors for all peers fit into the unit's limits."""
    service = section("sidecard.service", "Service")
    assert int(service["TimeoutStopSec"]) > Flights().drain_seconds
    assert service["MemoryMax"] == "1G"
    assert Cache().max_bytes * 1.25 + 40 * 2**20 < 2**30 / 2
    assert int(service["LimitNOFILE"]) > 2 * Limits().max_peers
    # A user namespace would show every peer as uid 65534, and all rights rest on the uid.
    assert service["PrivateUsers"] == "no"


@needs_systemd_analyze
def test_the_drop_in_for_redis_opens_the_network_and_nothing_else(units: list[str], tmp_path: Path) -> None:
    """It is of the unit's grammar, and the service stays confined."""
    service = next(Path(unit) for unit in units if unit.endswith("sidecard.service"))
    dropped_in = tmp_path / f"{service.name}.d" / "network.conf"
    dropped_in.parent.mkdir()
    shutil.copy(UNITS / "sidecard-network.conf", dropped_in)
    result = analyzed("verify", "--man=no", *units)
    assert [line for line in result.stderr.splitlines() if "sidecard" in line or "network.conf" in line] == []
    merged = service.read_text(encoding="utf-8").replace(
        "[Install]", dropped_in.read_text(encoding="utf-8").replace("[Service]", "") + "\n[Install]"
    )
    service.write_text(merged, encoding="utf-8")
    result = analyzed("security", "--offline=true", "--threshold=15", str(service))
    assert result.returncode == 0, result.stdout
