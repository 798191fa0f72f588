"""The blocking client's generated files, and the names that both clients share."""

import ast

import pytest

from tests.unasync import GENERATED, HEADER, PACKAGE, generate, translate


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    """If this fails, run ``python -m tests.unasync``. Comments and format are compared by CI, which has the formatter."""
    written = (PACKAGE / "_sync" / name).read_text()
    assert written.startswith(HEADER.format(source=f"_async/{name}"))
    assert ast.dump(ast.parse(written)) == ast.dump(ast.parse(generate(name)))


def test_both_clients_have_the_same_files() -> None:
    """Each has its own mechanism for time limits beside them; the asynchronous one, for event loops and sending."""
    parts = ("batches", "calls", "client", "connection", "connector", "lifecycle", "streams", "held_streams")
    common = {"__init__.py", *(f"{part}.py" for part in parts)}
    files = {side: {path.name for path in (PACKAGE / side).glob("*.py")} for side in ("_sync", "_async")}
    assert files["_sync"] - common == {"heartbeat.py"}
    assert files["_async"] - common == {
        "checkpoints.py", "event_loops.py", "renewals.py", "reply_futures.py", "send_buffer.py", "ticks.py", "unix_socket.py",
    }  # fmt: skip


def test_translate_removes_waiting_and_renames() -> None:
    """In code, strings and comments; overloads are left out."""
    source = (
        "async def f(client: AsyncClient) -> None:\n"
        '    """Use `AsyncClient`: ``async with AsyncClient()``, ``await client.call()``."""\n'
        "    async with client as entered:\n"
        "        await entered.call(  # await it\n            1)\n"
        "@overload\nasync def g() -> int: ...\n"
    )
    assert translate(source) == (
        "def f(client: Client) -> None:\n"
        '    """Use `Client`: ``with Client()``, ``client.call()``."""\n'
        "    with client as entered:\n"
        "        entered.call(  # it\n            1)\n"
    )
