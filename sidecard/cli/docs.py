"""``sidecard docs``: list the documentation that ships with the package, or show one topic."""

import argparse
import sys
from collections.abc import Iterator
from importlib import resources

from sidecard.cli.arguments import Commands
from sidecard.cli.exit_codes import OK, UsageError
from sidecard.cli.output import write
from sidecard.cli.text.tables import render, table
from sidecard.nearest import advice

SUFFIX = ".md"


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "docs",
        help="list or show the documentation",
        description="List the topics of the documentation, or show one.",
    )
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="topic to show")
    parser.add_argument(
        "--raw", action="store_true", help="write the Markdown source; the default if standard output is not a terminal"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    topics = read_topics()
    if arguments.topic is None:
        rows = [(name, *summary(text)) for name, text in topics.items()]
        write(
            render(table("", ("topic", "title", "contents"), rows, align="lll")) if rows else "No topics are installed."
        )
        return OK

    text = topics.get(arguments.topic)
    if text is None:
        raise UsageError(_unknown(arguments.topic, list(topics)))

    if arguments.raw or not sys.stdout.isatty():
        write(text.rstrip("\n"))
    else:
        from rich.markdown import Markdown  # noqa: PLC0415 - for terminals alone

        write(render(Markdown(text)))

    return OK


def read_topics() -> dict[str, str]:
    """Return the Markdown text of each topic, sorted by name."""
    directory = resources.files("sidecard") / "docs"
    if not directory.is_dir():
        return {}

    files = sorted((file for file in directory.iterdir() if file.name.endswith(SUFFIX)), key=lambda file: file.name)
    return {file.name.removesuffix(SUFFIX): file.read_text(encoding="utf-8") for file in files}


def summary(text: str) -> tuple[str, str]:
    """Return a topic's title (its first heading) and the first sentence of its first paragraph."""
    blocks = text.strip().split("\n\n")
    title = next((block.lstrip("#").strip() for block in blocks if block.startswith("#")), "")
    sentences = (sentence for block in blocks for sentence in _sentences(block))
    return title.split("\n")[0], next(sentences, "")


def _sentences(block: str) -> Iterator[str]:
    """Yield the first sentence of a paragraph; nothing for headings, lists, tables and code."""
    lines = [line for line in block.split("\n") if not line.startswith("#")]
    if lines and lines[0][:1].isalnum():
        head, period, _ = " ".join(lines).partition(". ")
        yield f"{head}." if period else head


def _unknown(topic: str, topics: list[str]) -> str:
    return f"there is no topic {topic!r}; {advice(topic, topics)}"
