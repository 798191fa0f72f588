"""The process in which libFuzzer runs one target: ``python -m tests.fuzz.guided TARGET`` and libFuzzer's own arguments."""

import sys

import atheris

INSTRUMENTED = ["sidecard", "sidecard_client"]
"""What guides the fuzzer. Parsers that are C (msgspec, SQLite) are seen by what ours make of what they say."""


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - what is imported here is instrumented

    program, name, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
