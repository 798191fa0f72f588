"""Make files that exist in memory only (memfd_create(2))."""

import errno
import os
from collections.abc import Callable
from typing import Final

_CLOSE_ON_EXEC: Final = 0x1
_ALLOW_SEALING: Final = 0x2
_NO_EXECUTION: Final = 0x8
"""Linux 6.3. A host may require it of every memory file (``vm.memfd_noexec``)."""


def new_memory_file(name: str) -> int:
    """Return the descriptor of a new, empty file that can be sealed. Raises `OSError`."""
    create = _find_create()
    flags = _CLOSE_ON_EXEC | _ALLOW_SEALING
    try:
        return create(name, flags | _NO_EXECUTION)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise

        # The kernel is older than this flag.
        return create(name, flags)


def _find_create() -> Callable[[str, int], int]:
    """Return ``memfd_create``; from the C library if Python was built for an older one, as uv's builds before July 2026."""
    create: Callable[[str, int], int] | None = getattr(os, "memfd_create", None)
    if create is not None:
        return create

    try:
        import ctypes  # noqa: PLC0415 - importing it takes some milliseconds, and is rarely needed

        function = ctypes.CDLL(None, use_errno=True).memfd_create
    except (ImportError, OSError, AttributeError, MemoryError) as error:
        raise OSError(errno.ENOSYS, "neither Python nor the C library has memfd_create") from error

    def create_by_library(name: str, flags: int) -> int:
        descriptor: int = function(name.encode(), ctypes.c_uint(flags))
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

        return descriptor

    return create_by_library
