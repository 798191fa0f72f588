"""Check one input of a target, without the fuzzer: ``python -m tests.fuzz.replay TARGET FILE MEBIBYTES``."""

import resource
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    _, name, file, mebibytes = sys.argv
    resource.setrlimit(resource.RLIMIT_DATA, (int(mebibytes) << 20, int(mebibytes) << 20))
    TARGETS[name].check(Path(file).read_bytes())
