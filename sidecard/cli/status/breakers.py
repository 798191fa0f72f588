"""``sidecard breakers``: the backends and their breakers, and how an operator controls one."""

import argparse
from typing import get_args

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK, PROBLEM, UsageError
from sidecard.cli.output import write_reply
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.numbers import count, dollars, percent, seconds
from sidecard.cli.text.tables import render, table
from sidecard.printable import printable
from sidecard_client.protocol.wire import BackendState, BreakerAction, Breakers, GetBreakers, Ok, SetBreaker

_COLUMNS = (
    *("backend", "state", "where", "calls", "failed", "slow"),
    *("in progress", "queued", "latency", "per call", "opened"),
)

_PROMPT_COLUMNS = ("backend", "prefix affinity", "prompt tokens cached", "warm prefixes", "held callers")

_DONE = {
    "open": "open until `close` or `auto`; it gets no calls",
    "close": "closed; its failure counts are reset",
    "auto": "opens and closes automatically again",
    "disable": "disabled: calls are measured, but it never opens",
}


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "breakers", _run, "show the backends and their breakers, or set one; exit code 1 if one has tripped"
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=get_args(BreakerAction),
        help="open: block all calls; close: allow calls now; auto: open and close automatically; disable: measure, but "
        "never open (operators only)",
    )
    parser.add_argument("backend", nargs="?", metavar="BACKEND", help="backend to set")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.action is not None:
        return _set(arguments)

    breakers = query(socket_of(arguments), GetBreakers(id=1), Breakers)
    write_reply(breakers, lambda: breakers_text(breakers), as_json=arguments.json)
    # Half-open counts as tripped: the backend failed, and whether it recovered is not known yet.
    tripped = any(state.state in {"open", "half_open"} for state in breakers.backends.values())
    return PROBLEM if tripped else OK


def _set(arguments: argparse.Namespace) -> int:
    if arguments.backend is None:
        raise UsageError(f"name a backend: sidecard breakers {arguments.action} BACKEND")

    done = query(socket_of(arguments), SetBreaker(arguments.backend, arguments.action, id=1), Ok)
    write_reply(done, lambda: f"{arguments.backend}: {_DONE[arguments.action]}", as_json=arguments.json)
    return OK


def breakers_text(breakers: Breakers) -> str:
    """Return all backends as a table, followed by the causes of breakers that are not closed."""
    if not breakers.backends:
        return "no backends yet: each appears with its first call, or with [backends.NAME] in the settings"

    rows = [(name, *_cells(state)) for name, state in breakers.backends.items()]
    causes = [f"{printable(name)}: {state.cause}" for name, state in breakers.backends.items() if state.cause]
    prompts = [(name, *_prompt_cells(state)) for name, state in breakers.backends.items() if caches_prompts(state)]
    return render(
        table("", _COLUMNS, rows, align="lll" + "r" * 8),
        *(["\n".join(causes)] if causes else []),
        *([table("Prompt caches", _PROMPT_COLUMNS, prompts, align="llrrr")] if prompts else []),
    )


def caches_prompts(state: BackendState) -> bool:
    """Return whether a backend schedules by prefixes, or has reported prompt tokens from its own cache."""
    return state.prefix_affinity != "off" or bool(state.cached_prompt_share)


def cached_prompts(state: BackendState) -> str:
    """Return the share of prompt tokens that the backend read from its own cache, or a dash if it reports none."""
    return "-" if state.cached_prompt_share is None else percent(state.cached_prompt_share)


def _prompt_cells(state: BackendState) -> tuple[str, ...]:
    return state.prefix_affinity, cached_prompts(state), count(state.warm_prefixes), count(state.held)


def _cells(state: BackendState) -> tuple[str, ...]:
    return (
        state.state.replace("_", " "),
        state.locality,
        count(state.calls),
        count(state.failures),
        count(state.slow),
        in_progress(state),
        f"{state.queued:,} of {state.max_queue:,}" if state.limit is not None or state.queued else "-",
        latency(state),
        "-" if state.dollars_per_call is None else dollars(state.dollars_per_call),
        count(state.opened),
    )


def in_progress(state: BackendState) -> str:
    """Return the calls in progress, with their limit if there is one."""
    return count(state.permits) if state.limit is None else f"{state.permits:,} of {state.limit:,}"


def latency(state: BackendState) -> str:
    """Return the average latency, or a dash if it is unknown."""
    return "-" if state.latency_seconds is None else seconds(state.latency_seconds)
