"""Compare two explained requests: whether they share, and why not. Pure."""

from typing import Any

from msgspec import structs

from sidecard.cli.explain import view
from sidecard.cli.explain.requests import ExplainedRequest
from sidecard.cli.text.numbers import count
from sidecard_client.keys.explanation import ABSENT, Difference
from sidecard_client.protocol.wire import BYTES_PER_TOKEN

MAX_DIFFERENCES = 50
"""Number of differences in the text; JSON has all."""


def share(one: ExplainedRequest, other: ExplainedRequest) -> bool:
    """Return whether two requests get one answer."""
    unshared = one.question.unshared_because or other.question.unshared_because
    first, second = one.explanation, other.explanation
    return not unshared and first.key == second.key and first.namespace == second.namespace


def same_context(one: ExplainedRequest, other: ExplainedRequest) -> bool:
    """Return whether a refusal of one request is one of the other: nothing that may cause it differs outside the key."""
    contexts = [explained.question.http.context for explained in (one, other) if explained.question.http is not None]
    return len(set(contexts)) <= 1


def text_of(one: ExplainedRequest, other: ExplainedRequest) -> str:
    """Return the comparison as text."""
    differences = one.explanation.differences(other.explanation)
    if one.question.http is not None and other.question.http is not None:
        differences = [_with_short_identities(difference) for difference in differences]

    lines = [f"  {difference}" for difference in differences[:MAX_DIFFERENCES]]
    if len(differences) > len(lines):
        lines.append(f"  and {len(differences) - len(lines)} more")

    if not share(one, other):
        head = "They do not share:"
    elif not same_context(one, other):
        head = "They share answers, but not refusals: their keys are equal, and what is outside of them differs."
    else:
        head = "They share: their keys are equal." if lines else "They share: nothing that enters their keys differs."

    reasons = [
        f"  {name}: {explained.question.unshared_because}"
        for name, explained in (("one", one), ("other", other))
        if explained.question.unshared_because
    ]
    keys = (f"one    {one.explanation.key}", f"other  {other.explanation.key}")
    return "\n".join([*keys, head, *reasons, *lines, *_prefix_lines(one, other)])


def common_tokens(one: ExplainedRequest, other: ExplainedRequest) -> int:
    """Return about how many tokens the longest common prefix of two prompts has."""
    known = set(other.question.prefixes.digests)
    pairs = zip(*one.question.prefixes, strict=True)
    return max((length for digest, length in pairs if digest in known), default=0) // BYTES_PER_TOKEN


def _prefix_lines(one: ExplainedRequest, other: ExplainedRequest) -> list[str]:
    tokens = common_tokens(one, other)
    return [f"Their prompts share a prefix of about {count(tokens)} tokens."] if tokens else []


def _with_short_identities(difference: Difference) -> Difference:
    if difference.path != f"kwargs.{view.IDENTITY}":
        return difference

    one, other = view.short_identity(difference.one), view.short_identity(difference.other)
    return structs.replace(difference, one=one, other=other)


def fields_of(one: ExplainedRequest, other: ExplainedRequest) -> dict[str, Any]:
    """Return the comparison as fields; a difference lacks the side on which the value is absent."""
    return {
        "share": share(one, other),
        "share_refusals": share(one, other) and same_context(one, other),
        "common_prefix_tokens": common_tokens(one, other),
        "differences": [
            {"path": difference.path, "same_in_normal_form": difference.same_in_normal_form}
            | {
                side: value
                for side, value in (("one", difference.one), ("other", difference.other))
                if value is not ABSENT
            }
            for difference in one.explanation.differences(other.explanation)
        ],
        "one": view.fields_of(one),
        "other": view.fields_of(other),
    }
