"""The units as systemd reads them, without booting one (test_booted_systemd does): their grammar, their confinement, their numbers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecard.config.schema import CacheSettings, FlightSettings, LimitSettings, SocketSettings
from sidecard_client.protocol.socket_path import SYSTEM_SOCKET, find_socket

UNITS = Path(__file__).parents[2] / "systemd"
MAX_EXPOSURE = 1.0
"""Of 10. systemd's own resolved gets 2.1; 0.4 is what the service had when this was written, and the user's 0.6."""

MAX_EXPOSURE_WITH_NETWORK = 1.5

COMMANDS = ("/usr/local/bin/sidecard", "%h/.local/bin/sidecard")

MANAGERS = {"system": UNITS, "user": UNITS / "user"}

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
each_manager = pytest.mark.parametrize("manager", MANAGERS)


def copies(manager: str, folder: Path) -> list[Path]:
    """Copy units whose command is one that exists here: where the daemon will be installed is not this machine's business."""
    command = shutil.which("true")
    assert command is not None
    copied = []
    for unit in (*MANAGERS[manager].glob("*.service"), *MANAGERS[manager].glob("*.socket")):
        text = unit.read_text(encoding="utf-8")
        for installed in COMMANDS:
            text = text.replace(installed, command)

        copied.append(folder / unit.name)
        copied[-1].write_text(text, encoding="utf-8")

    assert len(copied) >= 2
    return copied


def analyzed(manager: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze as root's or a user's."""
    return subprocess.run(
        ["systemd-analyze", f"--{manager}", *map(str, arguments)],
        env=os.environ | {"XDG_RUNTIME_DIR": "/run"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


def exposure_complaints(manager: str, service: Path, most: float) -> str:
    """Return what systemd thinks is loose, where that is more than may be."""
    result = analyzed(manager, "security", "--offline=true", "--no-pager", f"--threshold={int(most * 10)}", service)
    assert "exposure level" in result.stdout, result.stderr
    return "\n".join(line for line in result.stdout.splitlines() if "✓" not in line) if result.returncode else ""


def section(unit: str, name: str) -> dict[str, str]:
    """Return one section of a unit; of a setting that is given several times, the last."""
    return {key: values[-1] for key, values in sections(UNITS / unit)[name].items()}


def sections(unit: Path) -> dict[str, dict[str, list[str]]]:
    """Return a unit's settings, each with all its values."""
    found: dict[str, dict[str, list[str]]] = {}
    settings: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            settings = found[line.strip("[]")] = {}
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)

    return found


def differing(one: Path, other: Path) -> set[str]:
    """Name the settings in which two units differ."""
    left, right = sections(one), sections(other)
    names = {f"{name}.{key}" for unit in (left, right) for name, settings in unit.items() for key in settings}
    return {name for name in names if _values(left, name) != _values(right, name)}


def _values(unit: dict[str, dict[str, list[str]]], name: str) -> list[str] | None:
    part, _, key = name.partition(".")
    return unit.get(part, {}).get(key)


def drop_ins() -> list[Path]:
    """Return every drop-in there is."""
    return [
        path for folder in MANAGERS.values() for path in sorted(folder.glob("*.conf")) if "sysusers" not in path.name
    ]


@needs_systemd_analyze
@each_manager
def test_units_verify_without_a_word(manager: str, tmp_path: Path) -> None:
    """Nothing in the units is unknown, misspelt or missing."""
    result = analyzed(manager, "verify", "--man=no", *copies(manager, tmp_path))
    # Complaints about the machine's other units are not ours.
    ours = [line for line in (result.stdout + result.stderr).splitlines() if "sidecard" in line]
    assert (result.returncode, ours) == (0, [])


@needs_systemd_analyze
@each_manager
def test_services_are_confined(manager: str, tmp_path: Path) -> None:
    """The exposure that systemd computes stays below the threshold, for each of them."""
    services = [unit for unit in copies(manager, tmp_path) if unit.suffix == ".service"]
    assert [complaint for unit in services if (complaint := exposure_complaints(manager, unit, MAX_EXPOSURE))] == []


@needs_systemd_analyze
@pytest.mark.parametrize("drop_in", drop_ins(), ids=lambda path: path.name)
def test_drop_ins_are_of_the_units_grammar(drop_in: Path, tmp_path: Path) -> None:
    """With each, the service verifies without a word; with all but that for hosts without namespaces it stays confined."""
    manager = "user" if drop_in.parent.name == "user" else "system"
    units = copies(manager, tmp_path)
    folder = tmp_path / "sidecard.service.d"
    folder.mkdir()
    shutil.copy(drop_in, folder)
    result = analyzed(manager, "verify", "--man=no", *units)
    # systemd 252 calls each change of IPAddressAllow a word of its own where it has no control group to put it in.
    assert [line for line in result.stderr.splitlines() if "sidecard" in line or drop_in.name in line] == []
    if drop_in.name == "no-namespaces.conf":
        return

    service = tmp_path / "sidecard.service"
    merged = drop_in.read_text(encoding="utf-8").replace("[Service]", "")
    service.write_text(
        service.read_text(encoding="utf-8").replace("[Install]", f"{merged}\n[Install]"), encoding="utf-8"
    )
    assert exposure_complaints(manager, service, MAX_EXPOSURE_WITH_NETWORK) == ""


def test_the_template_is_the_service_with_names_of_its_own() -> None:
    """What is confined in one is confined in the other."""
    assert differing(UNITS / "sidecard.service", UNITS / "sidecard@.service") == {
        "Unit.Description",
        "Unit.Wants",
        "Unit.After",
        "Service.ExecStart",
        "Service.EnvironmentFile",
        "Service.RuntimeDirectory",
        "Service.StateDirectory",
        "Install.Also",
    }
    assert differing(UNITS / "sidecard.socket", UNITS / "sidecard@.socket") == {
        "Unit.Description",
        "Socket.ListenStream",
    }


def test_the_users_service_differs_where_a_user_has_no_say() -> None:
    """No user and group to become, no directory under /run, and namespaces instead of privileges."""
    assert differing(UNITS / "sidecard.service", UNITS / "user" / "sidecard.service") == {
        "Unit.Description",
        "Service.ExecStart",
        "Service.ExecReload",
        "Service.Environment",
        "Service.EnvironmentFile",
        "Service.User",
        "Service.Group",
        "Service.RuntimeDirectory",
        "Service.RuntimeDirectoryMode",
        "Service.RuntimeDirectoryPreserve",
        "Service.ConfigurationDirectory",
        "Service.PrivateUsers",
        "Service.ProtectHome",
        "Install.WantedBy",
    }


def test_socket_units_bind_where_clients_look() -> None:
    """Path, mode and backlog are the contract's."""
    socket = section("sidecard.socket", "Socket")
    assert socket["ListenStream"] == SYSTEM_SOCKET
    assert int(socket["SocketMode"], 8) == SocketSettings().mode
    assert int(socket["Backlog"]) >= LimitSettings().max_peers
    users = section("user/sidecard.socket", "Socket")
    found = find_socket(None, {"XDG_RUNTIME_DIR": "/here"}, uid=1000, exists=lambda path: path.startswith("/here/"))
    assert found == users["ListenStream"].replace("%t", "/here")


def test_service_leaves_the_daemon_what_its_defaults_need() -> None:
    """Time to drain, memory for the cache and descriptors for all peers fit into the unit's limits."""
    service = section("sidecard.service", "Service")
    assert int(service["TimeoutStopSec"]) > FlightSettings().drain_seconds
    assert service["MemoryMax"] == "1G"
    assert CacheSettings().max_bytes * 1.25 + 40 * 2**20 < 2**30 / 2
    assert int(service["LimitNOFILE"]) > 2 * LimitSettings().max_peers
    # A user namespace would show every peer as uid 65534, and all rights rest on the uid.
    assert service["PrivateUsers"] == "no"
