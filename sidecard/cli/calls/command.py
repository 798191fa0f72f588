"""``sidecard calls list`` and ``show``: query the call log directly, without a daemon."""

import argparse

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.calls.export import add_export
from sidecard.cli.calls.log import add_filters, filter_of, open_log, parse_count, parse_id
from sidecard.cli.exit_codes import OK, PROBLEM
from sidecard.cli.output import warn, write, write_json_lines
from sidecard.errors import SidecardError

SHOWN_ROWS = 50


def add_parser(commands: Commands) -> None:
    """Add the command."""
    calls = commands.add_parser("calls", help="query the call log", description="Query the call log.")
    actions = calls.add_subparsers(metavar="ACTION", required=True)
    listed = add_command(actions, "list", _list, "list calls, newest first, without prompts and answers", settings=True)
    listed.add_argument(
        "--limit", type=parse_count, default=SHOWN_ROWS, metavar="N", help=f"at most N calls ({SHOWN_ROWS})"
    )
    add_filters(listed)
    show = add_command(actions, "show", _show, "show one call, with prompt and answer if logged", settings=True)
    show.add_argument("id", metavar="ID", type=parse_id, help="id as shown by `list`, or its beginning")
    add_export(actions)


def _list(arguments: argparse.Namespace) -> int:
    from sidecard.cli.calls.view import fields_of_call, table_of  # noqa: PLC0415 - imports the call log
    from sidecard.observe.call_log.rows import read  # noqa: PLC0415 - as above

    with open_log(arguments) as reader:
        rows = read(reader, filter_of(arguments), newest_first=True, limit=arguments.limit, texts=False)
        if arguments.json:
            return OK if write_json_lines(fields_of_call(row, texts=False) for row in rows) else PROBLEM

        shown = list(rows)

    if not shown:
        warn("no such calls")
        return PROBLEM

    write(table_of(shown))
    return OK


def _show(arguments: argparse.Namespace) -> int:
    from sidecard.cli.calls.view import call_text, fields_of_call  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import Filter, read  # noqa: PLC0415 - as above

    with open_log(arguments) as reader:
        rows = list(read(reader, Filter(id_prefix=arguments.id), newest_first=True, limit=2))

    if len(rows) != 1:
        raise SidecardError(
            f"several calls have an id that begins with {arguments.id}: write more of it"
            if rows
            else f"no call has an id that begins with {arguments.id}: `sidecard calls list` shows the ids"
        )

    if arguments.json:
        write_json_lines([fields_of_call(rows[0])])
    else:
        write(call_text(rows[0]))

    return OK
