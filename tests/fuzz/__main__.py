"""Guided fuzzing of one target: ``python -m tests.fuzz TARGET --seconds N``; without a target it lists them.

Needs the extra ``fuzz`` (atheris, which is libFuzzer). It begins with the target's seeds and its corpus. A broken
contract ends the run with the traceback and a line of base64 for the corpus, to be added once it is understood. The finding is
replayed three times without the fuzzer: exit code 1 if it breaks the contract again, 3 if it never does.
With ``--keep`` the shortest inputs that reach further than the corpus are added to it.
"""

import argparse
import base64
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus import inputs, keep
from tests.fuzz.targets import TARGETS

TIMEOUT_SECONDS = 10
"""For one input: none of them has more than a few KiB."""

START_SECONDS = 10
"""Of a process that replays one input, on a busy machine."""

REPLAYS = 3
UNREPRODUCED = 3
"""Exit code of a run whose findings cannot be reproduced."""

MEMORY_MEBIBYTES = 1024
"""Of the process, and a quarter of it of any one allocation: a length prefix must not allocate."""


def main() -> int:
    """Run one target in a process of its own: libFuzzer ends the process that it runs in."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "target", nargs="?", choices=sorted(TARGETS), help="parser to fuzz; without it, list the targets"
    )
    parser.add_argument("--seconds", type=int, default=60, help="duration (default: 60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of libFuzzer; 0 chooses a new one each time (default)"
    )
    parser.add_argument("--keep", action="store_true", help="add the inputs that reach new code to the corpus")
    arguments = parser.parse_args()
    if arguments.target is None:
        print("\n".join(sorted(TARGETS)))
        return 0

    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris, which is libFuzzer, is not installed: pip install -e '.[fuzz]'")

    with tempfile.TemporaryDirectory(prefix="sc-fuzz-") as name:
        return _run(arguments.target, Path(name), arguments.seconds, arguments.seed, keeping=arguments.keep)


def _run(name: str, scratch: Path, seconds: int, seed: int, *, keeping: bool) -> int:
    target = TARGETS[name]
    begun, grown, crashes = scratch / "begun", scratch / "grown", scratch / "crashes"
    for folder in (begun, grown, crashes):
        folder.mkdir()

    for number, data in enumerate([*target.seeds(), *inputs(name)]):
        (begun / str(number)).write_bytes(data)

    # libFuzzer refuses a dictionary without words.
    words = scratch / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    command = [
        sys.executable, "-m", "tests.fuzz.guided", name, str(grown), str(begun),
        f"-max_total_time={seconds}", f"-timeout={TIMEOUT_SECONDS}", f"-rss_limit_mb={MEMORY_MEBIBYTES}",
        f"-malloc_limit_mb={MEMORY_MEBIBYTES // 4}", f"-max_len={target.max_bytes}", f"-seed={seed}",
        f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-verbosity=1",
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *([f"-dict={words}"] if target.words else [])], check=False, stdin=subprocess.DEVNULL
    )
    broken = False
    for crash in sorted(crashes.iterdir()):
        times = sum(_breaks(name, crash) for _ in range(REPLAYS))
        broken = broken or times > 0
        print(f"{crash.name}, {times} of {REPLAYS} replays: {base64.b64encode(crash.read_bytes()).decode()}")

    if keeping and not done.returncode:
        print(f"{keep(name, [file.read_bytes() for file in grown.iterdir()])} inputs were added to the corpus")

    if not done.returncode:
        return 0

    # Without an input, the fuzzer itself has failed.
    return UNREPRODUCED if any(crashes.iterdir()) and not broken else 1


def _breaks(name: str, file: Path) -> bool:
    """Return whether an input breaks its target's contract, or exceeds the limits of time and memory, without the fuzzer."""
    try:
        replayed = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.replay", name, str(file), str(MEMORY_MEBIBYTES)],
            check=False, stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS + START_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True

    return replayed.returncode != 0


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
