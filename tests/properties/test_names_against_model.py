"""The table of names against a naive one that looks at every name at every step."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecard.core.names import UNKNOWN_UID, Hold, NameTable

BOUND = 6
LIFETIME = 50.0


@dataclass(eq=False)
class Item:
    """An item whose uses a test counts."""

    uid: int = UNKNOWN_UID
    used_at: float = 0.0
    seen: float = 0.0
    activity: float = 0.0
    hold: Hold = 0
    uses: int = 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "use", "hit", "hold", "age", "wait"]),
        st.sampled_from([f"n{number}" for number in range(14)]),
        st.integers(1, 3),
        st.sampled_from([0, 0, 1, 2]),
    ),
    max_size=80,
)


def check_room(before: dict[str, Item], old: str, dropped: Item, newcomer: int) -> None:
    """Check which name has made room: the oldest of those that need their names least, of a uid that has no fewer."""
    names = Counter(item.uid for item in before.values())
    rivals = [
        item for name, item in before.items() if item.uid == dropped.uid and name != "n0" and item.hold <= dropped.hold
    ]
    assert old != "n0"
    assert dropped.hold <= 1
    assert names[dropped.uid] >= names[newcomer]
    assert all(rival.hold == dropped.hold for rival in rivals)
    assert dropped.used_at == min(rival.used_at for rival in rivals)


@given(STEPS)
def test_a_table_forgets_as_a_naive_one_would(
    steps: list[tuple[str, str, int, Any]],
) -> None:
    """Who has most gives the oldest idle name, nothing in use or configured leaves, and no use is lost."""
    gone: list[tuple[str, Item]] = []
    table: NameTable[str, Item] = NameTable(
        BOUND, lambda name, item: gone.append((name, item)), lambda name: name == "n0"
    )
    now, refused, uses = 0.0, 0, 0
    for action, name, uid, hold in steps:
        now += 1.0
        before = dict(table.items)
        forgotten = len(gone)
        item = before.get(name)
        if action == "use":
            uses += 1
            item = item or table.enter(name, Item, uid, now)
            if item is None:
                refused += 1
                assert len(before) >= BOUND
            else:
                item.uses += 1
                item.used_at = now

            assert len(gone) - forgotten <= 1
            for old, dropped in gone[forgotten:]:
                assert len(before) >= BOUND
                check_room(before, old, dropped, uid)
        elif item is not None and action == "hit":
            item.activity += 1
        elif item is not None and action == "hold":
            item.hold = hold
        elif action == "wait":
            now += LIFETIME / 2
        elif action == "age":
            table.forget_unused(LIFETIME, now)
            for old, dropped in gone[forgotten:]:
                assert old != "n0"
                assert not dropped.hold
                assert now - dropped.used_at >= LIFETIME

            assert all(
                kept.hold or known == "n0" or now - kept.used_at < LIFETIME for known, kept in table.items.items()
            )

        assert len(table.items) <= BOUND * 1.25 + 1
        assert Counter(kept.uid for kept in table.items.values()) == table._names_of

    assert sum(item.uses for item in table.items.values()) + sum(item.uses for _, item in gone) == uses - refused
