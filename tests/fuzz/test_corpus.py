"""What is kept of fuzzing, tried again; and, where atheris is installed, a little more of it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import FOLDER, MAX_INPUTS, inputs
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
GUIDED_SECONDS = 10
MAX_CORPUS_BYTES = 300 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_has_found_holds_its_contract(name: str) -> None:
    """Seeds, inputs that reach far, and all that once broke something: nothing but what is documented comes of any of them."""
    target = TARGETS[name]
    kept = [*target.seeds(), *inputs(name)]
    assert len(kept) > 1
    for data in kept:
        target.check(data)


def test_the_corpus_is_small_and_each_file_is_a_targets() -> None:
    """It is read in each run of the tests, and nobody prunes what nobody reads."""
    files = list(FOLDER.iterdir())
    assert {file.stem for file in files} == set(TARGETS)
    assert sum(file.stat().st_size for file in files) < MAX_CORPUS_BYTES
    assert all(len(inputs(name)) <= MAX_INPUTS for name in TARGETS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: the extra `fuzz` has it")
@pytest.mark.parametrize("name", TARGETS)
def test_some_seconds_of_guided_fuzzing_find_nothing(name: str) -> None:
    """Minutes find more: ``python -m tests.fuzz TARGET --seconds N``."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(GUIDED_SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=240)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
