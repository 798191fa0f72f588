"""Show one explained request as text or as fields. Pure."""

from typing import Any, Final

import msgspec

from sidecard.cli.explain.requests import ExplainedRequest, HttpFacts
from sidecard.cli.text.numbers import count, dollars, seconds, size
from sidecard_client.keys.explanation import text_of as canonical_text
from sidecard_client.protocol import wire

_IDENTITIES: Final = {
    "given": "the identity= of the transport",
    "hash": "the hash of its credentials",
    "jwt": "the claims of its token, once an app's process has seen its upstream accept it",
    "aws": "the id of its AWS key",
}

IDENTITY_DIGITS: Final = 12
"""Digits of an identity in texts: weak credentials can be found from a whole hash, which only JSON has."""

PREFIX_DIGITS: Final = 12
"""Digits of a prefix in texts, enough to compare two requests by."""

IDENTITY: Final = "identity"
"""The part of an HTTP request's key that credentials make."""


def text_of(explained: ExplainedRequest) -> str:
    """Return key, policy and current state as text."""
    lines = [*_key_lines(explained), "", *_policy_lines(explained), "", *_state_lines(explained)]
    return "\n".join([*lines, *_prefix_lines(explained)])


def fields_of(explained: ExplainedRequest) -> dict[str, Any]:
    """Return key, policy and current state as flat, documented fields."""
    explanation, now = explained.explanation, explained.now
    stored, why_not = explained.stored
    return {
        "key": explanation.key,
        "namespace": explanation.namespace,
        "scope": None if now is None else now.scope,
        "normalize": list(explanation.normalize),
        "canonical": dict(explanation.parts),
        "canonical_hex": explanation.canonical.hex(),
        "deterministic": explained.question.deterministic,
        "http": None if explained.question.http is None else msgspec.to_builtins(explained.question.http),
        "policy": {name: msgspec.to_builtins(value) for name, value in explained.policy.items()},
        "stored": stored,
        "not_stored_because": why_not,
        "daemon": None if now is None else explained.socket,
        "entry": None if now is None or now.entry is None else msgspec.to_builtins(now.entry),
        "waiters": None if now is None else now.waiters,
        "failure": None if now is None else now.failure,
        "prefixes": [
            {
                "prefix": digest,
                "bytes": length,
                "tokens": length // wire.BYTES_PER_TOKEN,
                "states": {} if now is None else {name: known.states[number] for name, known in now.prefixes.items()},
            }
            for number, (digest, length) in enumerate(zip(*explained.question.prefixes, strict=True))
        ],
    }


def _key_lines(explained: ExplainedRequest) -> list[str]:
    explanation, unshared_because = explained.explanation, explained.question.unshared_because
    scope = "" if explained.now is None else f" ({explained.now.scope})"
    shown = f"none: {unshared_because}" if unshared_because else explanation.key
    lines = [f"key        {shown}", f"namespace  {explanation.namespace}{scope}"]
    if explanation.normalize:
        lines.append(f"normalize  {', '.join(explanation.normalize)}")

    if explained.question.http is not None:
        lines += _http_lines(explained.question.http)

    lines += [f"{name:<11}{explanation.parts[name] or 'none'}" for name in ("task", "model", "name")]
    if explanation.parts.get("sample"):
        lines.append(f"sample     {explanation.parts['sample']}")

    parts = {name: explanation.parts[name] for name in ("args", "kwargs")}
    if explained.question.http is not None:
        parts["kwargs"] = {**parts["kwargs"], IDENTITY: short_identity(parts["kwargs"][IDENTITY])}

    lines += [f"{name:<11}{_indented(canonical_text(part))}" for name, part in parts.items()]
    return lines


def short_identity(identity: str) -> str:
    """Return the first digits of an identity, which suffice to compare it."""
    return f"{identity[:IDENTITY_DIGITS]}..." if identity else ""


def _http_lines(http: HttpFacts) -> list[str]:
    outside = [*http.outside_body, *(f"header {name}" for name in http.outside_headers)]
    source = " and ".join(_IDENTITIES[source] for source in http.identity.split("+")) if http.identity else "none"
    names = f" ({', '.join(http.credentials)})" if http.identity and http.credentials else ""
    return [
        f"API        {http.family}",
        f"identity   {source}{names}",
        f"outside    {', '.join(outside) or 'nothing'}",
        f"passes     {http.passes or 'no'}",
    ]


def _indented(text: str) -> str:
    try:
        text = msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text  # contains values that JSON cannot express

    return text.replace("\n", "\n" + " " * 11)


def _policy_lines(explained: ExplainedRequest) -> list[str]:
    rows = [(name, _value(value.value), _source(value)) for name, value in explained.policy.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    stored, why_not = explained.stored
    lines += ["", "Its answer may be stored." if stored else f"Its answer is not stored: {why_not}."]
    forms = explained.policy["normalize"].value if "normalize" in explained.policy else ()
    if forms and not explained.explanation.normalize:
        lines.append(
            f'Its task has the normal form {", ".join(forms)}, for clients with normalize="task": see --normalize task.'
        )

    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"

    # Booleans in lower case, as in TOML.
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _source(value: wire.PolicyValue) -> str:
    if value.setting in value.origin:
        return value.origin

    return f"{value.setting} ({value.origin})" if value.origin else value.setting


def _state_lines(explained: ExplainedRequest) -> list[str]:
    now = explained.now
    if now is None:
        return [
            f"No daemon was queried: {explained.no_daemon}",
            "The policy is that of this command's settings.",
        ]

    lines = []
    if now.entry is not None:
        lines += _entry_lines(now.entry)
        limit = explained.question.max_age_seconds
        if limit is not None and now.entry.age_seconds >= limit:
            lines.append(f"It is too old for this call, which takes answers of less than {seconds(limit)}.")

        if explained.policy["cache"].value == "never":
            lines.append("Its task does not use this entry: it neither stores nor reads answers.")

    if now.waiters is not None:
        lines.append(f"The call is in progress; waiters: {now.waiters}.")

    if now.failure is not None:
        lines.append(f"The call failed, and the failure is remembered: {now.failure}")

    return lines or ["No answer is stored under the key, and no call is in progress."]


def _prefix_lines(explained: ExplainedRequest) -> list[str]:
    """Return the prefixes of the prompt, with their state on each backend that has ``prefix_affinity``."""
    prefixes, known = explained.question.prefixes, {} if explained.now is None else explained.now.prefixes
    if not prefixes.digests:
        return []

    rows = [("prefix", "tokens", *known)]
    for number, (digest, length) in enumerate(zip(*prefixes, strict=True)):
        tokens = length // wire.BYTES_PER_TOKEN
        states = ("too short" if tokens < backend.min_tokens else backend.states[number] for backend in known.values())
        rows.append((digest[:PREFIX_DIGITS], f"~{count(tokens)}", *states))

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if explained.now is not None and not known:
        lines.append("No backend has prefix_affinity, so no call is scheduled by these prefixes.")

    return ["", *lines]


def _entry_lines(entry: wire.EntryState) -> list[str]:
    if entry.ttl_left_seconds:
        left = f"for {seconds(entry.ttl_left_seconds)} more"
    elif entry.stale:
        left = f"as stale for {seconds(entry.stale_left_seconds)} more"
    else:
        left = "only as shared, within the sharing window"

    cost = "" if entry.usage.cost_dollars is None else f", {dollars(entry.usage.cost_dollars)}"
    lines = [
        f"An answer is stored: {seconds(entry.age_seconds)} old, served {left}.",
        f"Its call took {seconds(entry.call_seconds)}{cost}, on {entry.backend}; it occupies {size(entry.size_bytes)}.",
    ]
    if entry.tags:
        lines.append(f"Its tags are {', '.join(entry.tags)}.")

    return lines
