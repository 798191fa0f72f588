"""The corpus of fuzzing, and some seconds of guided fuzzing where atheris is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import UNREPRODUCED
from tests.fuzz.corpus import FOLDER, MAX_INPUTS, inputs
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
GUIDED_SECONDS = 10
MAX_CORPUS_BYTES = 300 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_input_keeps_the_contract_of_its_target(name: str) -> None:
    """Seeds, far-reaching inputs and earlier findings have documented outcomes only."""
    target = TARGETS[name]
    kept = [*target.seeds(), *inputs(name)]
    assert len(kept) > 1
    for data in kept:
        target.check(data)


def test_corpus_is_small_and_has_a_file_for_each_target() -> None:
    """Every run of the tests replays the corpus, so its size is bounded."""
    files = list(FOLDER.iterdir())
    assert {file.stem for file in files} == set(TARGETS)
    assert sum(file.stat().st_size for file in files) < MAX_CORPUS_BYTES
    assert all(len(inputs(name)) <= MAX_INPUTS for name in TARGETS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: the extra `fuzz` has it"
)
@pytest.mark.parametrize("name", TARGETS)
def test_guided_fuzzing_for_some_seconds_finds_nothing(name: str) -> None:
    """A finding that can be replayed fails the test; another one is shown as the reason why the test was skipped.

    ``python -m tests.fuzz TARGET --seconds N`` runs longer.
    """
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(GUIDED_SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=240)
    if done.returncode == UNREPRODUCED:
        pytest.skip(f"found, but not reproduced: {done.stdout[-2000:]}")

    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("raise ValueError", 1), ("bytearray(1 << 31)", 1)])
def test_replayed_input_fails_if_its_contract_breaks(body: str, code: int, tmp_path: Path) -> None:
    """A finding is replayed by the target alone; a broken contract and too much memory count, nothing else does."""
    found = tmp_path / "found"
    found.write_bytes(b"input")
    script = (
        "import runpy, sys\n"
        "from tests.fuzz.target import Target\n"
        "from tests.fuzz.targets import TARGETS\n"
        f"def check(data):\n    assert data == b'input'\n    {body}\n"
        "TARGETS['probe'] = Target('probe', check, list)\n"
        f"sys.argv = ['replay', 'probe', {str(found)!r}, '512']\n"
        "runpy.run_module('tests.fuzz.replay', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
