"""``python -m sidecard`` and the command ``sidecard``."""

import gc


def main() -> int:
    """Run the command line, without garbage collections while modules are imported: a twentieth of the daemon's start."""
    gc.disable()
    from sidecard.cli import main as run  # noqa: PLC0415 - after collections are disabled

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
