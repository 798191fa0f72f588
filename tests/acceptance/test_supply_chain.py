"""What is installed with the daemon: pinned, whole, from wheels alone, and under licences that let anybody use it."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")
OURS = {"sidecard", "sidecard-client"}

PERMISSIVE = re.compile(
    r"(MIT|BSD|Apache|PSF|Python Software Foundation|ISC|MPL|Mozilla Public|HPND|CC0|0BSD|Unlicense)", re.IGNORECASE
)
"""MPL is of files: certifi's list of certificates is not changed here."""

_ENTRY = re.compile(r"([A-Za-z0-9_.-]+)==([^\s;]+)(?:\s*;\s*([^\\]+?))?((?:\s*--hash=sha256:[0-9a-f]{64})+)\s*")


class Pinned(Requirement):
    """One entry of the lock."""

    def __init__(self, name: str, version: str, marker: str | None) -> None:
        super().__init__(f"{name}=={version}" + (f"; {marker}" if marker else ""))
        self.version = version


def lock() -> Iterator[Pinned]:
    """Yield what is pinned; each line of the lock must be a part of an entry."""
    text = re.sub(r"^#.*\n", "", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in text.splitlines():
        entry = _ENTRY.fullmatch(line)
        assert entry is not None, f"{line[:80]} is not pinned with its hashes"
        yield Pinned(entry[1], entry[2], entry[3])


def declared() -> list[Requirement]:
    """Return what both projects need at run time."""
    texts = []
    for file in (ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"):
        texts += tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]

    return [wanted for wanted in map(Requirement, texts) if canonicalize_name(wanted.name) not in OURS]


def holds(wanted: Requirement, python: str, extra: str = "") -> bool:
    """Return whether a requirement is one on that Python."""
    environment: dict[str, Any] = {**default_environment()} | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "extra": extra,
    }
    return wanted.marker is None or wanted.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_all_requirements_in_allowed_versions(python: str) -> None:
    """On each Python the lock covers both projects and all that they require."""
    pinned = {canonicalize_name(entry.name): entry for entry in lock() if holds(entry, python)}
    waiting, seen = declared(), set[str]()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if not holds(wanted, python):
            continue

        assert name in pinned, f"{name} is not in requirements.lock, whose head says how it is made"
        assert wanted.specifier.contains(pinned[name].version), f"{wanted} and {pinned[name]}"
        if name not in seen:
            seen.add(name)
            for text in importlib.metadata.requires(name) or ():
                further = Requirement(text)
                if any(holds(further, python, extra) and "extra ==" in text for extra in wanted.extras) or (
                    "extra ==" not in text
                ):
                    waiting.append(further)

    assert set(pinned) == seen, "something is pinned that nothing needs"


def test_lock_has_only_permissive_licenses() -> None:
    """Each distribution's metadata names MIT, BSD, Apache or a similar license."""
    unknown = {}
    for entry in lock():
        try:
            details: Any = importlib.metadata.metadata(entry.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this Python

        classifiers = [text for text in details.get_all("Classifier") or () if text.startswith("License ::")]
        licence = " ".join(
            [details.get("License-Expression") or "", (details.get("License") or "")[:200], *classifiers]
        )
        if not PERMISSIVE.search(licence) or re.search(r"\bA?GPL", licence):
            unknown[entry.name] = licence

    assert unknown == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_a_wheel_for_every_distribution(python: str, tmp_path: Path) -> None:
    """Nothing is built at installation: there is no compiler in the image, and no build code runs on the host."""
    versions = [
        "--python-version",
        python,
        "--implementation",
        "cp",
        "--abi",
        f"cp{python.replace('.', '')}",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ]
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28")] + ["--platform=any"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes",
            "--dest", str(tmp_path), "--requirement", str(LOCK), *versions, *platforms,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "NameResolutionError" in done.stderr or "Network is unreachable" in done.stderr:
        pytest.skip("no package index can be reached")

    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.suffix for path in tmp_path.iterdir()} == {".whl"}
