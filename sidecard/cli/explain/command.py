"""``sidecard explain``: show a request's key, policy and current state, or compare two requests."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from sidecard.cli.arguments import Commands, add_settings_arguments, load_settings
from sidecard.cli.exit_codes import OK, PROBLEM, UsageError
from sidecard.cli.explain.requests import ExplainedRequest, Flags, Question, parse_header, read_question
from sidecard.cli.output import STANDARD, write, write_json
from sidecard.cli.query import query, socket_of
from sidecard.errors import SidecardError
from sidecard_client import DaemonUnavailable, UnkeyableRequest
from sidecard_client.keys.normal_form import NORMAL_FORMS, NormalForm, ordered
from sidecard_client.protocol import wire


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="show a request's key and policy, or why two requests do not share",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show the canonical form of a request, its key, the policy that applies with the\n"
        "source of each value, and the daemon's current state of the key. For two\n"
        "requests, show why their keys differ.",
        epilog="A request is a JSON object, in one of these forms:\n"
        '  {"name": "app.answer", "args": ["why?"], "kwargs": {}, "task": "rag", "model": null, "ttl": 60}\n'
        '  {"url": "https://api.openai.com/v1/chat/completions", "headers": {}, "body": {"model": "...", ...}}\n'
        "  with --url: only the body, as an SDK sends it\n"
        f"Exit codes: {OK} success, {PROBLEM} the requests do not share, or no key can be computed.",
    )
    parser.add_argument("request", metavar="REQUEST", help=f"file; {STANDARD} is standard input")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="second request, to compare with the first")
    parser.add_argument("--url", help="URL of the body, such as https://api.openai.com/v1/chat/completions")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="header of the request; may be repeated"
    )
    parser.add_argument(
        "--share-credentials",
        action="store_true",
        help="ignore API keys, as the transport's share_credentials does",
    )
    parser.add_argument("--identity", metavar="TEXT", help="identity of the caller, as the transport's identity=")
    parser.add_argument("--task", metavar="NAME", help="task, instead of the request's own")
    parser.add_argument("--namespace", metavar="NAME", help="namespace, instead of the request's own")
    parser.add_argument(
        "--normalize",
        metavar="FORMS",
        help=f"some of {','.join(NORMAL_FORMS)}, or task: the forms that the daemon has for the task",
    )
    add_settings_arguments(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from sidecard.cli.explain import comparison, view  # noqa: PLC0415 - `sidecard --help` imports this module

    flags = Flags(
        arguments.task,
        arguments.namespace,
        arguments.normalize,
        arguments.url,
        tuple(map(parse_header, arguments.header)),
        arguments.share_credentials,
        arguments.identity,
    )
    names = [arguments.request] if arguments.other is None else [arguments.request, arguments.other]
    if names.count(STANDARD) > 1:
        raise UsageError("standard input is one request: name a file for the other")

    questions = [read_question(_contents(name), name, flags) for name in names]
    try:
        explained = [_explain(question, arguments) for question in questions]
    except UnkeyableRequest as error:
        raise SidecardError(str(error)) from error

    if len(explained) == 1:
        if arguments.json:
            write_json(view.fields_of(explained[0]))
        else:
            write(view.text_of(explained[0]))

        return OK

    one, other = explained
    if arguments.json:
        write_json(comparison.fields_of(one, other))
    else:
        write(comparison.text_of(one, other))

    return OK if comparison.share(one, other) else PROBLEM


def _contents(name: str) -> bytes:
    if name == STANDARD:
        return sys.stdin.buffer.read()

    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SidecardError(f"cannot read {name}: {error.strerror}") from error


def _explain(question: Question, arguments: argparse.Namespace) -> ExplainedRequest:
    path = socket_of(arguments)
    task, namespace = question.options.task, question.options.namespace
    reply, why_not = _query(
        path, wire.Explain(id=1, task=task, namespace=namespace), required=arguments.socket is not None
    )
    policy = _policy_of_settings(task, arguments) if reply is None else reply.policy
    explanation = question.explain(_forms_in(policy))
    if reply is not None and explanation.key is not None:
        context = "" if question.http is None else question.http.context
        request = wire.Explain(
            id=1,
            task=task,
            namespace=namespace,
            key=explanation.key,
            context=context,
            prefix=question.prefixes.digests,
        )
        reply = _query_key(path, request, explanation.key)

    own = {name: wire.PolicyValue(value, origin, origin) for name, (value, origin) in question.policy.items()}
    return ExplainedRequest(question, explanation, policy | own, reply, path, why_not)


def _query(path: str, request: wire.Explain, *, required: bool) -> tuple[wire.Explained | None, str]:
    """Return the daemon's reply, or None and the reason if there is none and the daemon is not ``required``."""
    try:
        return query(path, request, wire.Explained), ""
    except DaemonUnavailable as error:
        if required:
            raise

        return None, str(error)


def _query_key(path: str, request: wire.Explain, key: str) -> wire.Explained:
    """Query a key; on a memory miss, load it from the store first, as a begin would."""
    reply = query(path, request, wire.Explained)
    if reply.entry is None and reply.waiters is None and reply.store in {"up", "read_only"}:
        query(path, wire.Get(key, request.namespace, id=1), wire.Reply)
        reply = query(path, request, wire.Explained)

    return reply


def _policy_of_settings(task: str, arguments: argparse.Namespace) -> dict[str, wire.PolicyValue]:
    """Return the policy of a daemon with the settings of this command. Raises `ConfigError`."""
    from sidecard.core.operations.policies import policy_of  # noqa: PLC0415 - as above

    config = load_settings(arguments, os.environ)
    return policy_of(config.engine_settings(), task, config.origins)


def _forms_in(policy: dict[str, wire.PolicyValue]) -> tuple[NormalForm, ...]:
    forms: Any = policy["normalize"].value if "normalize" in policy else ()
    return ordered(form for form in NORMAL_FORMS if form in forms)
