"""``sidecard explain``: what the key of a request is made of, what holds for it, and why two requests do not share."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sidecard.cli import FINE, NOT_FINE
from sidecard.cli.asking import UsageError, ask, socket_of, with_exit_code
from sidecard.cli.explain_requests import Flags, Question, header_of, read
from sidecard.cli.serve import add_config_arguments, config_of
from sidecard.errors import SidecardError
from sidecard_client import DaemonUnavailable, RequestRefused, UnkeyableRequest
from sidecard_client.keys.explanation import Explanation
from sidecard_client.keys.normal_form import NORMAL_FORMS, NormalForm, ordered
from sidecard_client.protocol import wire

STANDARD = "-"
"""The name of standard input."""


class Answer(Struct, frozen=True):
    """All that is told of one request."""

    question: Question
    explanation: Explanation
    policy: dict[str, wire.PolicyValue]
    """What holds for it: its task's, and what it says itself."""
    now: wire.Explained | None
    """What the daemon knows of it; None where none was asked."""
    socket: str
    no_daemon: str = ""
    """Why none was."""

    @property
    def stored(self) -> tuple[bool, str]:
        """Whether its answer would be stored, and why not."""
        if self.question.shares_nothing:
            return False, self.question.shares_nothing

        cache = self.policy["cache"].value
        if cache == "never":
            return False, "nothing of its task is"

        if cache == "deterministic" and not self.question.deterministic:
            return (
                False,
                "its task stores what is meant to have one answer, and this says neither temperature 0 nor a seed",
            )

        lives = any(self.policy[name].value for name in ("ttl_seconds", "stale_seconds"))
        return (True, "") if lives else (False, "its time to live is 0; it is shared for the sharing window")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="show what a request's key is made of and what holds for it, or why two requests do not share",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Shows the canonical form of a request, its key, the policy that applies and where each value is from,\n"
        "and what the daemon has of it now. Of two requests it shows what makes their keys differ.",
        epilog="A request is a JSON object, in one of these forms:\n"
        '  {"name": "app.answer", "args": ["why?"], "kwargs": {}, "task": "rag", "model": null, "ttl": 60}\n'
        '  {"url": "https://api.openai.com/v1/chat/completions", "headers": {}, "body": {"model": "...", ...}}\n'
        "  with --url: the body alone, as an SDK sends it\n"
        f"Exit codes: {FINE} fine, {NOT_FINE} the two do not share, or no key can be made.",
    )
    parser.add_argument("request", metavar="REQUEST", help=f"a file; {STANDARD} is standard input")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="a second one, to be compared with the first")
    parser.add_argument("--url", help="where a body goes, such as https://api.openai.com/v1/chat/completions")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME: VALUE",
        help="a header that goes with it; may be given several times",
    )
    parser.add_argument(
        "--share-credentials",
        action="store_true",
        help="as the transport's share_credentials: API keys count for nothing",
    )
    parser.add_argument("--task", metavar="NAME", help="the task, where the request does not say it, or says another")
    parser.add_argument("--namespace", metavar="NAME", help="the namespace, likewise")
    parser.add_argument(
        "--normalize",
        metavar="FORMS",
        help=f"{','.join(NORMAL_FORMS)}, some of them, or task: those that the daemon has for the task",
    )
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.set_defaults(run=lambda arguments: with_exit_code(_explain, arguments))


def _explain(arguments: argparse.Namespace) -> int:
    from sidecard.cli import explain_views as views  # noqa: PLC0415 - what a command needs is imported by that command

    flags = Flags(
        arguments.task,
        arguments.namespace,
        arguments.normalize,
        arguments.url,
        tuple(map(header_of, arguments.header)),
        arguments.share_credentials,
    )
    names = [arguments.request] if arguments.other is None else [arguments.request, arguments.other]
    if names.count(STANDARD) > 1:
        raise UsageError("standard input is one request: name a file for the other")

    questions = [read(_contents(name), name, flags) for name in names]
    try:
        answers = [_answer(question, arguments) for question in questions]
    except UnkeyableRequest as error:
        raise SidecardError(str(error)) from error

    if len(answers) == 1:
        (answer,) = answers
        return _write(views.fields_of(answer) if arguments.json else views.text_of(answer))

    one, other = answers
    differences = one.explanation.differences(other.explanation)
    _write(
        views.comparison_fields(one, other, differences)
        if arguments.json
        else views.comparison_text(one, other, differences)
    )
    return FINE if views.share(one, other) else NOT_FINE


def _contents(name: str) -> bytes:
    if name == STANDARD:
        return sys.stdin.buffer.read()

    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SidecardError(f"{name} cannot be read ({error.strerror})") from error


def _answer(question: Question, arguments: argparse.Namespace) -> Answer:
    path = socket_of(arguments)
    task, namespace = question.options.task, question.options.namespace
    told, why = _ask(path, wire.Explain(id=1, task=task, namespace=namespace), named=arguments.socket is not None)
    policy = _policy_of_settings(task, arguments) if told is None else told.policy
    explanation = question.explained(_forms_in(policy))
    if told is not None and explanation.key is not None:
        told = _look(path, wire.Explain(id=1, task=task, namespace=namespace, key=explanation.key))

    said = {name: wire.PolicyValue(value, origin, origin) for name, (value, origin) in question.policy.items()}
    return Answer(question, explanation, policy | said, told, path, why)


def _ask(path: str, request: wire.Explain, *, named: bool) -> tuple[wire.Explained | None, str]:
    """Return what the daemon says; None, and why, where there is none to ask and nobody ``named`` one."""
    try:
        return ask(path, request, wire.Explained), ""
    except DaemonUnavailable as error:
        if named:
            raise

        return None, str(error)
    except RequestRefused as error:
        if error.code != "unknown_op":
            raise

        return None, "the daemon is of a version that does not explain"


def _look(path: str, request: wire.Explain) -> wire.Explained:
    """Ask for a key; where memory has nothing, let it look into the store first, as a begin would."""
    told = ask(path, request, wire.Explained)
    if told.entry is None and told.waiters is None and told.store in {"up", "read_only"}:
        assert request.key is not None  # noqa: S101 - for the type checker: what is looked for has a key
        ask(path, wire.Get(request.key, request.namespace, id=1), wire.Reply)
        told = ask(path, request, wire.Explained)

    return told


def _policy_of_settings(task: str, arguments: argparse.Namespace) -> dict[str, wire.PolicyValue]:
    """Return the policy that a daemon with the settings of this command would have. Raises `ConfigError`."""
    from sidecard.core.operations.policies import policy_of  # noqa: PLC0415 - as above

    config = config_of(arguments, os.environ)
    return policy_of(config.engine_settings(), task, config.origins)


def _forms_in(policy: dict[str, wire.PolicyValue]) -> tuple[NormalForm, ...]:
    said: Any = policy["normalize"].value if "normalize" in policy else ()
    return ordered(form for form in NORMAL_FORMS if form in said)


def _write(shown: str | dict[str, Any]) -> int:
    text = shown if isinstance(shown, str) else msgspec.json.format(msgspec.json.encode(shown)).decode()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return FINE
