"""How ``sidecard explain`` writes what it has found, for people and for programs. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sidecard.cli.tables import dollars, seconds, size
from sidecard_client.keys.explanation import ABSENT, Difference
from sidecard_client.keys.explanation import text_of as written
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from sidecard.cli.explain import Answer

MAX_DIFFERENCES = 50
"""Lines that people are shown; programs get all."""


def text_of(answer: "Answer") -> str:
    """Show one request."""
    return "\n".join([*_of_key(answer), "", *_of_policy(answer), "", *_of_now(answer)])


def comparison_text(one: "Answer", other: "Answer", differences: Sequence[Difference]) -> str:
    """Show what makes the keys of two requests differ."""
    keys = [f"one    {one.explanation.key}", f"other  {other.explanation.key}"]
    lines = [f"  {difference}" for difference in differences[:MAX_DIFFERENCES]]
    left = len(differences) - len(lines)
    more = [f"  and {left} more"] if left > 0 else []
    if share(one, other):
        head = "They share: their keys are one." if lines else "They share: nothing that goes into their keys differs."
    else:
        head = "They do not share:"

    alone = [
        f"  {name}: {answer.question.shares_nothing}"
        for name, answer in (("one", one), ("other", other))
        if answer.question.shares_nothing
    ]
    return "\n".join([*keys, head, *alone, *lines, *more])


def share(one: "Answer", other: "Answer") -> bool:
    """Tell whether two requests get one answer."""
    alone = one.question.shares_nothing or other.question.shares_nothing
    mine, its = one.explanation, other.explanation
    return not alone and mine.key == its.key and mine.namespace == its.namespace


def fields_of(answer: "Answer") -> dict[str, Any]:
    """Return one request as flat, documented fields."""
    explanation, now = answer.explanation, answer.now
    stored, why = answer.stored
    return {
        "key": explanation.key,
        "namespace": explanation.namespace,
        "scope": None if now is None else now.scope,
        "normalize": list(explanation.normalize),
        "canonical": dict(explanation.parts),
        "canonical_hex": explanation.canonical.hex(),
        "deterministic": answer.question.deterministic,
        "policy": {name: msgspec.to_builtins(value) for name, value in answer.policy.items()},
        "stored": stored,
        "not_stored_because": why,
        "daemon": None if now is None else answer.socket,
        "entry": None if now is None or now.entry is None else msgspec.to_builtins(now.entry),
        "waiters": None if now is None else now.waiters,
        "failure": None if now is None else now.failure,
    }


def comparison_fields(one: "Answer", other: "Answer", differences: Sequence[Difference]) -> dict[str, Any]:
    """Return a comparison; what only one of the two has is left out of the other's side."""
    return {
        "share": share(one, other),
        "differences": [
            {"path": difference.path, "same_in_normal_form": difference.same_in_normal_form}
            | {
                side: value
                for side, value in (("one", difference.one), ("other", difference.other))
                if value is not ABSENT
            }
            for difference in differences
        ],
        "one": fields_of(one),
        "other": fields_of(other),
    }


def _of_key(answer: "Answer") -> list[str]:
    explanation = answer.explanation
    scope = "" if answer.now is None else f" ({answer.now.scope})"
    shown = explanation.key if not answer.question.shares_nothing else f"none: {answer.question.shares_nothing}"
    lines = [f"key        {shown}", f"namespace  {explanation.namespace}{scope}"]
    if explanation.normalize:
        lines.append(f"normalize  {', '.join(explanation.normalize)}")

    lines += [f"{name:<11}{explanation.parts[name]}" for name in ("task", "model", "name")]
    for name in ("args", "kwargs"):
        text = written(explanation.parts[name])
        lines.append(f"{name:<11}{_indented(text)}")

    return lines


def _indented(text: str) -> str:
    try:
        text = msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text  # with what JSON has no word for

    return text.replace("\n", "\n" + " " * 11)


def _of_policy(answer: "Answer") -> list[str]:
    rows = [(name, _value(value.value), _source(value)) for name, value in answer.policy.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    stored, why = answer.stored
    lines.append("")
    lines.append("Its answer may be stored." if stored else f"Its answer is not stored: {why}.")
    has = answer.policy["normalize"].value if "normalize" in answer.policy else ()
    if has and not answer.explanation.normalize:
        lines.append(
            f'Its task has the normal form {", ".join(has)}, for clients with normalize="task": see --normalize task.'
        )

    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"

    # True and False as TOML has them.
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _source(value: wire.PolicyValue) -> str:
    if value.setting in value.origin:
        return value.origin

    return f"{value.setting} ({value.origin})" if value.origin else value.setting


def _of_now(answer: "Answer") -> list[str]:
    now = answer.now
    if now is None:
        return [f"No daemon was asked: {answer.no_daemon}", "The policy is what the settings of this command say."]

    lines = []
    if now.entry is not None:
        lines += _of_entry(now.entry)
        if answer.policy["cache"].value == "never":
            lines.append(
                "Its task is served none of that: nothing of it is stored, and what was before is not looked at."
            )

    if now.waiters is not None:
        lines.append(f"It is being computed, and {now.waiters} wait for it.")

    if now.failure is not None:
        lines.append(f"Its call has failed, which is remembered: {now.failure}")

    return lines or ["Nothing is stored under its key, and nobody computes it."]


def _of_entry(entry: wire.EntryState) -> list[str]:
    if entry.ttl_left_seconds:
        left = f"for {seconds(entry.ttl_left_seconds)} more"
    elif entry.stale:
        left = f"as stale for {seconds(entry.stale_left_seconds)} more"
    else:
        left = "as shared alone, within the sharing window"

    cost = "" if entry.usage.cost_dollars is None else f", {dollars(entry.usage.cost_dollars)}"
    lines = [
        f"An answer is stored: {seconds(entry.age_seconds)} old, served {left}.",
        f"Its call took {seconds(entry.call_seconds)}{cost}, on {entry.backend}; it counts {size(entry.size_bytes)}.",
    ]
    if entry.tags:
        lines.append(f"Its tags are {', '.join(entry.tags)}.")

    return lines
