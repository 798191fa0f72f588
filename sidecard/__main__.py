"""``python -m sidecard``, the same as the command ``sidecard``."""

from sidecard.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
