"""Limit how deep values nest, by their msgpack bytes.

The daemon forwards values without decoding them, and decoders recurse. So a value nested 9,000 deep, stored by one process,
would overflow the stack of another: Python 3.13 does not notice that in a thread with a small stack. Every entrance of a
value checks it by `nesting_problem`, which does not recurse.
"""

from typing import Final

MAX_DEPTH: Final = 64
"""Maximum number of lists and maps around any part of a value.

Measured with Python 3.11 to 3.13: decoding, encoding, comparing and printing 64 levels fits into the smallest stack that a
thread may have (32 KiB); 100 levels crash it. Precedent: protobuf's 100.
"""

MAX_PIECE_DEPTH: Final = MAX_DEPTH - 1
"""As `MAX_DEPTH`, for a piece of a stream, which is stored as the list of its pieces."""

MAX_STEPS: Final = 65_536
"""Maximum number of parts that are examined one by one, which takes 15 ms. Runs of equally long parts count as one or two."""

_CONTAINERS: Final = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))
_CONTAINER_BYTES: Final = frozenset(bytes((head,)) for head in _CONTAINERS)
SINGLE_BYTES: Final = bytes((*range(0x80), 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC2, 0xC3, *range(0xE0, 0x100)))
"""Parts of one byte: small integers, nil, booleans, and empty strings, lists and maps."""

FIXED_BYTES: Final = dict.fromkeys(SINGLE_BYTES, 1) | {
    **{0xA0 | length: 1 + length for length in range(1, 32)},
    0xCA: 5,
    0xCB: 9,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
    0xD4: 3,
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
}
"""Sizes of the parts whose first byte determines the size."""

_WIDTHS: Final = tuple(FIXED_BYTES.get(head, 0) for head in range(256))

LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Sizes of the length of binary, extension and text parts."""

_SCALARS: Final = frozenset((str, bytes, bytearray, int, float, bool, type(None)))
_SEQUENCES: Final = (list, tuple, set, frozenset)
EXTENSIONS: Final = frozenset((0xC7, 0xC8, 0xC9))
_FIRST_RUN, _MAX_RUN = 8, 16_384
MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
LISTS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))


def nesting_problem(value: bytes, max_depth: int = MAX_DEPTH) -> str | None:
    """Return why a value must not be stored or shared: it is nested too deep, or has too many parts. None if it may.

    Nearly every value is decided without examining its parts: a text, or one with at most ``max_depth`` bytes that could
    begin a list or map. So bytes that are no msgpack are detected only if they are examined.
    """
    if value[:1] not in _CONTAINER_BYTES or len(value) - len(value.translate(None, _CONTAINERS)) <= max_depth:
        return None

    try:
        return _examine(value, max_depth)
    except IndexError:
        return "it is not one complete msgpack value"


def nests_too_deep(value: object, max_depth: int = MAX_DEPTH) -> bool:
    """Return whether an object is nested too deep to be encoded safely. Cycles are."""
    if type(value) in _SCALARS:
        return False

    level = [value]
    for _ in range(max_depth):
        inner: dict[int, object] = {}  # each object once, or a list that holds itself twice would double each level
        for one in level:
            parts = one.values() if isinstance(one, dict) else one if isinstance(one, _SEQUENCES) else ()
            if not _SCALARS.issuperset(map(type, parts)):
                inner.update((id(part), part) for part in parts if type(part) not in _SCALARS)

        if not inner:
            return False

        level = list(inner.values())

    return True


def _examine(value: bytes, max_depth: int) -> str | None:
    """Walk through all parts of a value. Raises `IndexError` if it ends too early."""
    size, at, left, steps, run = len(value), 0, 1, 0, _FIRST_RUN
    outer: list[int] = []  # how many parts are left of each list and map around the next part
    while True:
        while not left:
            if not outer:
                return None if at == size else "it is not one complete msgpack value"

            left = outer.pop()

        steps += 1
        if steps > MAX_STEPS:
            return f"it has more than {MAX_STEPS} parts"

        head = value[at]
        width = _WIDTHS[head]
        if width:
            at += width
            left -= 1
            if left and (_WIDTHS[value[at]] == 1 if width == 1 else value[at] == head):
                # A run of equally long parts, such as the numbers of a vector, by slicing its first bytes.
                window = value[at : at + width * min(left, run) : width]
                count = len(window) - len(window.lstrip(SINGLE_BYTES if width == 1 else window[:1]))
                run = min(run * 4, _MAX_RUN) if count == run else _FIRST_RUN
                at += width * count
                left -= count
        elif head in LENGTH_BYTES:
            length_at, length_bytes = at + 1, LENGTH_BYTES[head]
            at = length_at + length_bytes
            at += int.from_bytes(value[length_at:at], "big") + (head in EXTENSIONS)
            left -= 1
        else:
            count, at = count_of(value, head, at)
            outer.append(left - 1)
            if len(outer) > max_depth:
                return f"it is nested more than {max_depth} deep"

            left = count

        if at > size:
            raise IndexError


def end_of_scalar(value: bytes, at: int) -> int:
    """Return where a part that is no list or map ends. Raises `IndexError` for lists, maps, and parts that are incomplete."""
    head = value[at]
    if head in LENGTH_BYTES:
        begins_at = at + 1 + LENGTH_BYTES[head]
        end = begins_at + int.from_bytes(value[at + 1 : begins_at], "big") + (head in EXTENSIONS)
    else:
        end = at + FIXED_BYTES.get(head, len(value))

    if end > len(value):
        raise IndexError

    return end


def count_of(value: bytes | memoryview, head: int, at: int) -> tuple[int, int]:
    """Return how many parts a list or map has, and where they begin."""
    if head < 0xA0:  # noqa: PLR2004 - the first byte of a short list or map has its length
        count, begins_at = head & 0x0F, at + 1
    else:
        length_bytes = 4 if head in {0xDD, 0xDF} else 2
        begins_at = at + 1 + length_bytes
        count = int.from_bytes(value[at + 1 : begins_at], "big")

    return (2 * count if head in MAPS else count), begins_at
