"""Divide a request's body into what makes the key and what stays outside of it. Pure."""

from collections.abc import Iterable
from typing import Any, Final

Places = dict[str, Any]
"""A tree of fields to leave out: a leaf is an empty dict, and ``[]`` means each item of a list."""

_ITEMS: Final = "[]"


def places(paths: Iterable[str]) -> Places:
    """Return the tree of paths such as ``messages[].content[].cache_control``."""
    tree: Places = {}
    for path in paths:
        node = tree
        for step in path.replace(_ITEMS, f".{_ITEMS}").split("."):
            node = node.setdefault(step, {})

    return tree


def divided_at(body: dict[str, Any], tree: Places) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the body without the fields at these places, and these fields by place. The body itself stays as it is."""
    outside: dict[str, Any] = {}
    return _without(body, tree, "", outside), outside


def _without(value: Any, tree: Places, place: str, outside: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        kept = value
        for name, below in tree.items():
            if name not in value:
                continue

            at = f"{place}.{name}" if place else name
            if kept is value:
                kept = dict(value)

            if below:
                kept[name] = _without(value[name], below, at, outside)
            else:
                outside[at] = kept.pop(name)

        return kept

    if isinstance(value, list) and _ITEMS in tree:
        return [_without(item, tree[_ITEMS], f"{place}[{number}]", outside) for number, item in enumerate(value)]

    return value
