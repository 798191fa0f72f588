"""``sidecard calls export``: the call log as JSON lines, or as conversations for fine-tuning."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.calls.log import add_filters, filter_of, open_log, parse_count
from sidecard.cli.exit_codes import OK, PROBLEM
from sidecard.cli.output import STANDARD, json_line, note, replaced_file, write_lines
from sidecard.cli.text.numbers import plural

if TYPE_CHECKING:
    from sidecard.observe.call_log.rows import CallRow


def add_export(actions: Commands) -> None:
    """Add the action."""
    export = add_command(actions, "export", _export, "export calls as JSON lines", settings=True, json=False)
    export.add_argument(
        "--format",
        choices=("jsonl", "openai-chat"),
        default="jsonl",
        help="jsonl: all logged fields, oldest first (default); openai-chat: conversations for fine-tuning, newest first, "
        "one per key",
    )
    export.add_argument("--output", metavar="FILE", default=STANDARD, help="file; - is standard output (default)")
    export.add_argument("--limit", type=parse_count, metavar="N", help="at most N calls")
    add_filters(export)


def _export(arguments: argparse.Namespace) -> int:
    from sidecard.cli.calls.view import fields_of_call  # noqa: PLC0415 - imports the call log
    from sidecard.observe.call_log.rows import read  # noqa: PLC0415 - as above

    # Up to now, so that the export of a growing log ends.
    wanted = filter_of(arguments, until_now=True)
    omitted: Counter[str] = Counter()
    lines: Iterator[bytes]
    with open_log(arguments) as reader:
        if arguments.format == "openai-chat":
            lines = islice(_conversations(read(reader, wanted, newest_first=True), omitted), arguments.limit)
        else:
            rows = read(reader, wanted, newest_first=False, limit=arguments.limit)
            lines = (json_line(fields_of_call(row)) for row in rows)

        with replaced_file(arguments.output) as file:
            exported = write_lines(file, lines)

    reasons = [why if len(omitted) == 1 else f"{why} ({number:,})" for why, number in omitted.most_common()]
    rest = f", omitted {omitted.total():,}: {', '.join(reasons)}" if omitted else ""
    note(f"{plural(exported, 'call', 'calls')} exported{rest}")
    return OK if exported else PROBLEM


def _conversations(rows: Iterable["CallRow"], omitted: "Counter[str]") -> Iterator[bytes]:
    """Yield the newest conversation of each key as a JSON line; count the reasons for omitting other calls."""
    from sidecard.observe.call_log.fine_tuning import NoExampleError, example  # noqa: PLC0415 - as above

    seen: set[int] = set()
    for row in rows:
        # Shared and cached answers repeat the answer of another row.
        if row.source != "upstream":
            continue

        # Hashes instead of keys: a million keys would take 100 MB.
        key = None if row.key is None else hash(row.key)
        if key in seen:
            omitted["an older call of the same key"] += 1
            continue

        try:
            conversation = json_line(example(row.prompt, row.answer))
        except NoExampleError as error:
            omitted[str(error)] += 1
            continue

        if key is not None:
            seen.add(key)

        yield conversation
