"""Hits read from a view are accounted for as hits over the socket: the same ledger, metrics, call log and budgets."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.view.reader import ViewReader
from tests.acceptance.test_call_log import calls
from tests.daemons import Daemon, ask, poll, until
from tests.metrics import samples

Start = Callable[..., Daemon]

_HITS = 40
"""Of each kind and client, after the view is there."""

_OWN = ("sidecard_view", "sidecard_handle_seconds", "sidecard_cache_bytes", "sidecard_peers", "sidecard_build")
"""Metrics that differ, or are of a view or of times alone."""

_IGNORED_REQUESTS = ("op=view", "op=hits", "op=ping", "op=metrics", "op=stats", "op=report")


def _answer(question: str) -> list[str]:
    return [question, "answered"]


def _pieces(question: str) -> Iterator[str]:
    yield from (question, "in", "pieces")


def _usage(_: object) -> dict[str, Any]:
    return {"model": "small", "prompt_tokens": 3, "completion_tokens": 4, "cost_dollars": 0.25}


def _use(path: str, *, has_view: bool) -> int:
    """Make the same calls; return how many of them were answered from a view."""
    from_view = 0
    read = ViewReader.read

    def counted(*arguments: Any) -> Any:
        nonlocal from_view
        hit = read(*arguments)
        from_view += hit is not None
        return hit

    def is_attached(client: Any) -> bool:
        return bool(client._connector.views.attached)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViewReader, "read", counted)
        with Client(path, usage=_usage, daemon_timeout=10) as client:
            _use_blocking(client, 3)
            poll(lambda: is_attached(client) == has_view, "there is no view")
            _use_blocking(client, _HITS)

        async def main() -> None:
            async with AsyncClient(path, usage=_usage, daemon_timeout=10) as client:
                await _use_async(client, 3)
                await until(lambda: is_attached(client) == has_view)
                await _use_async(client, _HITS)

        anyio.run(main)

    return from_view


def _use_blocking(client: Client, hits: int) -> None:
    client.put("entry", {"a": 1})
    for _ in range(hits):
        assert client.get("entry") == {"a": 1}
        for task in ("general", "rag"):
            assert client.call(_answer, "one", task=task, backend="cloud") == ["one", "answered"]
            assert client.outcome(_answer, "one", task=task, backend="cloud").value == ["one", "answered"]

        assert client.call(_answer, "one", mode="only_if_cached", task="rag") == ["one", "answered"]
        assert list(client.stream(_pieces, "two", task="rag")) == ["two", "in", "pieces"]


async def _use_async(client: AsyncClient, hits: int) -> None:
    for _ in range(hits):
        assert await client.get("entry") == {"a": 1}
        assert await client.call(_answer, "one", task="rag", backend="cloud") == ["one", "answered"]
        async with client.stream(_pieces, "two", task="rag") as stream:
            assert [piece async for piece in stream] == ["two", "in", "pieces"]


def _books(path: str, state: Path) -> dict[str, Any]:
    """Return all that is counted of calls. Of times, only whether there are any: they differ each time."""
    stats, report = ask(path, {"op": "stats"}), ask(path, {"op": "report"})
    counted = {
        name: value
        for name, value in samples(path).items()
        if not name.startswith(_OWN) and not any(word in name for word in _IGNORED_REQUESTS)
    }
    rows = [
        (row["source"], row["task"], row["namespace"], row["uid"], row["pid"], row["key"], row["backend"], row["model"],
         row["prompt_tokens"], row["completion_tokens"], row["billed_dollars"], row["saved_dollars"])
        for row in calls(state, "list", "--json", "--limit", "10000")
    ]  # fmt: skip
    return {
        "stats": {name: stats[name] for name in ("begins", "hits", "misses", "shared", "leases_first", "chunks_sent")},
        "report": _timeless(report),
        "metrics": _timeless(counted),
        "rows": Counter(rows),
    }


def _timeless(counted: Any, name: str = "") -> Any:
    if isinstance(counted, dict):
        return {
            key: _timeless(value, key)
            for key, value in counted.items()
            if key not in {"boot_id", "type", "id", "view_hits"}
        }

    return bool(counted) if any(word in name for word in ("seconds", "latency", "bytes")) else counted


def test_hits_of_a_view_are_accounted_for_as_hits_over_the_socket(daemon: Start, tmp_path: Path) -> None:
    """The same calls with and without a view give the same books, times apart."""
    books, from_view = {}, {}
    for view_bytes in (0, 1 << 20):
        state = tmp_path / str(view_bytes)
        state.mkdir()
        one = daemon(
            f"--set=cache.view_bytes={view_bytes}",
            "--set=calls.enabled=true",
            "--set=backends.cloud.locality=remote",
            "--set=budgets.all.dollars=10",
            STATE_DIRECTORY=str(state),
        )
        from_view[view_bytes] = _use(one.socket, has_view=view_bytes > 0)
        expected = int(ask(one.socket, {"op": "stats"})["begins"])  # type: ignore[call-overload]  # a number
        poll(lambda: len(calls(state, "list", "--json", "--limit", "10000")) >= expected, "rows are missing")  # noqa: B023
        books[view_bytes] = _books(one.socket, state)
        assert ask(one.socket, {"op": "stats"})["view_hits"] == 0 or view_bytes

    assert from_view[0] == 0
    assert from_view[1 << 20] > 8 * _HITS, "the view is not read"
    socket, view = (dict(_flat(books[view_bytes])) for view_bytes in (0, 1 << 20))
    assert {
        name: (socket.get(name), view.get(name)) for name in socket | view if socket.get(name) != view.get(name)
    } == {}


def _flat(counted: Any, *path: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(counted, dict):
        for name, value in counted.items():
            yield from _flat(value, *path, name)
    else:
        yield path, counted
