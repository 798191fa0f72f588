"""`sidecard/docs/protocol.md` agrees with the code, and its examples work."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import sidecard
from sidecard_client.protocol import wire
from tests.daemons import Daemon

TEXT = (Path(sidecard.__file__).parent / "docs" / "protocol.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
EXAMPLE = re.compile(r"^\$ echo '(.*)' \| socat - \$S\n((?:\{.*\}\n)+)", re.MULTILINE)


def rows(section: str) -> list[list[str]]:
    """Return the cells of the tables in a section, without their heads."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("|---")]


def words(cell: str) -> set[str]:
    """Return what is between back-ticks."""
    return set(re.findall(r"`(\w+)`", cell))


def exchange(path: str, line: str) -> list[dict[str, Any]]:
    """Do as socat does: send a line, half-close, read all replies."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(f"{line}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    return [json.loads(reply) for reply in received.splitlines()]


def same_shape(said: object, seen: object) -> bool:
    """Return whether a reply is as documented: numbers may differ, ``...`` abbreviates, defaults may be left out."""
    if isinstance(said, dict) and isinstance(seen, dict):
        extra = [seen[name] for name in seen.keys() - said.keys()]
        return all(name in seen and same_shape(said[name], seen[name]) for name in said) and not any(extra)

    if isinstance(said, str) and isinstance(seen, str) and "..." in said:
        return seen.startswith(said.partition("...")[0])

    if isinstance(said, float):
        return isinstance(seen, float)

    return said == seen


def test_the_examples_of_the_document_work(daemon: Callable[..., Daemon]) -> None:
    """Each socat example, in order, gets the documented replies."""
    path = daemon().socket
    examples = EXAMPLE.findall(SECTIONS["JSON lines by hand"])
    assert len(examples) == SECTIONS["JSON lines by hand"].count("$ echo ")
    for request, expected in examples:
        replies = exchange(path, request)
        documented = [json.loads(line) for line in expected.splitlines()]
        assert len(replies) == len(documented)
        for said, seen in zip(documented, replies, strict=True):
            assert same_shape(said, seen), f"{request}: {seen}"


def test_the_example_of_a_whole_call_works(daemon: Callable[..., Daemon]) -> None:
    """On one connection: a begin gets a lease, and complete stores the answer."""
    lines = SECTIONS["JSON lines by hand"].partition("$ socat - $S\n")[2].partition("```")[0].splitlines()
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as replies:
        connection.settimeout(5)
        connection.connect(daemon().socket)
        lease = ""
        for line in lines:
            documented = json.loads(line)
            if "op" in documented:
                connection.sendall(line.replace('"lease":"..."', f'"lease":"{lease}"').encode() + b"\n")
            else:
                seen = json.loads(replies.readline())
                assert same_shape(documented, seen), seen
                lease = seen.get("lease", lease)


def test_the_table_of_requests_names_every_operation_and_reply() -> None:
    """The requests' table has each ``op`` of `AnyRequest`, and its replies include each ``type`` of `AnyReply`."""
    table = rows("Requests and replies")
    assert set().union(*(words(ops) for ops, _, _ in table)) - {"op"} == set(
        map(wire.tag_of, get_args(wire.AnyRequest))
    )
    replies = set().union(*(words(cell) for _, _, cell in table))
    same_word = {"stats", "report", "health", "error"}
    assert set(map(wire.tag_of, get_args(wire.AnyReply))) - same_word <= replies


@pytest.mark.parametrize(
    ("section", "literal"), [("Limits and errors", wire.ErrorCode), ("Failures and retries", wire.FailureKind)]
)
def test_the_tables_of_words_are_complete(section: str, literal: object) -> None:
    """Every error code and failure kind has its row."""
    assert set(get_args(literal)) <= set().union(*(words(row[0]) for row in rows(section)))
