"""``python -m sidecard`` and the command ``sidecard``, whose start is a daemon's start: nothing unnecessary is imported."""

import gc
import sys


def main() -> int:
    """Run the command line; without garbage collections while modules are imported, a twentieth of the daemon's start."""
    gc.disable()
    if sys.argv[1:2] == ["serve"]:
        from sidecard import early_signals  # noqa: PLC0415 - other commands end by signals

        early_signals.install()

    # msgspec prefers typing_extensions, which costs a fiftieth of the start, to typing, which has the same from 3.11 on.
    hidden = "typing_extensions" not in sys.modules
    if hidden:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # means "not installed" to the import system

    import msgspec  # noqa: F401, PLC0415 - see above

    if hidden:
        del sys.modules["typing_extensions"]

    from sidecard.cli import main as run  # noqa: PLC0415 - after msgspec

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
