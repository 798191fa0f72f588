"""What a call used, in the field names of the providers: OpenAI, Anthropic, Gemini, Ollama. Pure.

`counts_of` turns any of these into the fields of `Usage`, by one rule for clients, intercepted HTTP answers and the daemon:

=============================  ==================================================================================
field                          is the sum, or else the first, of
=============================  ==================================================================================
``prompt_tokens``              ``prompt_tokens``; ``input_tokens``, to which Anthropic's ``cache_read_input_tokens`` and
                               ``cache_creation_input_tokens`` are added, which it does not include;
                               ``prompt_token_count`` + ``tool_use_prompt_token_count``; ``prompt_eval_count``
``completion_tokens``          ``completion_tokens``; ``output_tokens``; ``candidates_token_count`` +
                               ``thoughts_token_count``; ``eval_count``
``cached_prompt_tokens``       ``cache_read_input_tokens``, ``cache_read_input_token_count``; ``cached_content_token_count``;
                               ``cached_tokens`` or ``cache_read`` in the details of the input; ``prompt_cache_hit_tokens``;
                               ``timings.cache_n``
``cache_write_prompt_tokens``  ``cache_creation_input_tokens``, ``cache_write_input_tokens``,
                               ``cache_write_input_token_count``; the sum of ``cache_creation``; ``cache_creation`` in the
                               details of the input
=============================  ==================================================================================

llama.cpp's ``timings`` count what was read from its cache (``cache_n``), processed (``prompt_n``) and generated
(``predicted_n``): without other counts of the prompt and the completion, ``cache_n + prompt_n`` and ``predicted_n`` are theirs.

Names may also be in camel case (``promptTokenCount``). If only ``total_tokens`` says how many tokens the answer has, the rest of
it counts as completion. Reasoning tokens are part of the completion in all of these.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

MAX_COUNT: Final = 2**53

_OWN: Final = (
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cached_prompt_tokens",
    "cache_write_prompt_tokens",
    "cost_dollars",
    "first_chunk_seconds",
)
"""The fields of `Usage`."""

_ANTHROPIC_READ: Final = "cache_read_input_tokens"
_ANTHROPIC_WRITE: Final = "cache_creation_input_tokens"

PROVIDERS: Final = (
    "input_tokens",
    "output_tokens",
    _ANTHROPIC_READ,
    _ANTHROPIC_WRITE,
    "prompt_token_count",
    "candidates_token_count",
    "cached_content_token_count",
    "thoughts_token_count",
    "tool_use_prompt_token_count",
    "prompt_eval_count",
    "eval_count",
    "total_tokens",
)
"""Counts in the words of the providers."""

_COUNTS: Final = frozenset(
    {
        *_OWN[1:5],
        *PROVIDERS,
        "total_token_count",
        "prompt_cache_hit_tokens",
        "cache_write_input_tokens",
        "cache_read_input_token_count",
        "cache_write_input_token_count",
    }
)

_ANTHROPIC_LIFETIMES: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
"""The parts of Anthropic's ``cache_creation``."""

_TIMINGS: Final = "timings"

_DETAILS: Final = (
    "prompt_tokens_details",
    "input_tokens_details",
    "input_token_details",
)
"""Of the input: OpenAI's chat and Responses API, LangChain."""

_WITHOUT_MEANING: Final = frozenset(
    {
        "cache_creation",
        "cache_details",
        "cache_tokens_details",
        "candidates_tokens_details",
        "completion_tokens_details",
        "context",
        "created_at",
        "done",
        "done_reason",
        "eval_duration",
        "inference_geo",
        "iterations",
        "load_duration",
        "logprobs",
        "message",
        "output_token_details",
        "output_tokens_details",
        "prompt_cache_miss_tokens",
        "prompt_eval_duration",
        "response",
        "server_tool_use",
        "service_tier",
        "speed",
        "thinking",
        _TIMINGS,
        "tool_use_prompt_tokens_details",
        "total_duration",
        "traffic_type",
        *_DETAILS,
    }
)
"""Fields of the providers' usage that change no count: parts of others, times, and the rest of an Ollama answer."""

_ANSWER: Final = frozenset({"context", "logprobs", "message", "response", "thinking"})
"""Of `_WITHOUT_MEANING`: parts of an answer of Ollama's."""

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


class Counts(Struct, frozen=True):
    """The counts of a usage."""

    fields: dict[str, Any]
    """In the names of `Usage`. Fields without a value are left out."""
    unknown: tuple[str, ...] = ()
    """Names that mean nothing."""
    invalid: tuple[str, ...] = ()
    """Sentences about values that are no counts; they are left out of ``fields``."""
    contradictions: tuple[str, ...] = ()
    """Sentences about two names of one field with two values; ``fields`` has the larger."""


def fields_of(reported: object) -> Mapping[str, Any]:
    """Return the fields of a usage: of a mapping all, of an SDK's object those that are known here."""
    if isinstance(reported, Mapping):
        return reported

    names = (*_OWN, *sorted((_COUNTS | _WITHOUT_MEANING) - _ANSWER))
    return {name: value for name in names if (value := getattr(reported, name, None)) is not None}


def known_fields() -> str:
    """Return the names that are understood, as a text."""
    return f"{', '.join(_OWN)}; of the providers: {', '.join(PROVIDERS)}"


def counts_of(reported: Mapping[Any, Any]) -> Counts:
    """Return a usage of any provider in the fields of `Usage`. Never raises for any value."""
    named: dict[str, Any] = {}
    unknown: list[str] = []
    invalid: list[str] = []
    for written, value in reported.items():
        name = _CAMEL.sub(lambda found: "_" + found[1].lower(), written) if isinstance(written, str) else ""
        if name not in _COUNTS and name not in _OWN and name not in _WITHOUT_MEANING:
            unknown.append(str(written))
        elif value is None:
            pass
        elif name in _COUNTS:
            count = _count(value)
            if count is None:
                invalid.append(f"{written} is {_shown(value)}, which is not a whole number from 0 to 2**53")
            elif count > named.get(name, -1):
                named[name] = count
        else:
            named[name] = value

    fields: dict[str, Any] = {
        name: named[name] for name in ("model", "cost_dollars", "first_chunk_seconds") if name in named
    }
    contradictions: list[str] = []
    for field, candidates in _candidates(named):
        values = [(words, value) for words, value in candidates if value is not None and value <= MAX_COUNT]
        if not values:
            continue

        words, value = max(values, key=lambda one: one[1])
        fields[field] = value
        other = next((one for one in values if one[1] != value), None)
        if other is not None:
            contradictions.append(f"{other[0]} is {other[1]}, but {words} is {value}")

    _complete_by_timings(fields, named.get(_TIMINGS))
    _complete_by_total(fields, named)
    return Counts(fields, tuple(unknown), tuple(invalid), tuple(contradictions))


def _candidates(named: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, int | None]]]]:
    """Yield each counted field of `Usage` with the values under its names."""
    count = named.get
    details = next((named[name] for name in _DETAILS if name in named), None)
    timings = count(_TIMINGS)
    read, written = count(_ANTHROPIC_READ), count(_ANTHROPIC_WRITE)
    if read is None:
        read = count("cache_read_input_token_count")  # of Amazon's own models, invoked as such

    if written is None:
        written = count("cache_write_input_tokens", count("cache_write_input_token_count"))

    if written is None:
        written = _sum(*(_count_in(count("cache_creation"), name) for name in _ANTHROPIC_LIFETIMES))

    cached = read is not None or written is not None
    prompt, separate = count("prompt_tokens"), count("input_tokens")
    if separate is not None and cached:
        # Anthropic's is without what its cache served. Gateways that add it already also have ``prompt_tokens``.
        whole = _sum(separate, read, written)
        separate = separate if separate == prompt else whole

    if prompt is None and separate is None and cached:
        separate = _sum(read, written)

    yield (
        "prompt_tokens",
        [
            ("prompt_tokens", prompt),
            ("input_tokens with what the cache served" if cached else "input_tokens", separate),
            ("prompt_token_count", _sum(count("prompt_token_count"), count("tool_use_prompt_token_count"))),
            ("prompt_eval_count", count("prompt_eval_count")),
        ],
    )
    yield (
        "completion_tokens",
        [
            ("completion_tokens", count("completion_tokens")),
            ("output_tokens", count("output_tokens")),
            ("candidates_token_count", _sum(count("candidates_token_count"), count("thoughts_token_count"))),
            ("eval_count", count("eval_count")),
        ],
    )
    yield (
        "cached_prompt_tokens",
        [
            ("cached_prompt_tokens", count("cached_prompt_tokens")),
            (_ANTHROPIC_READ, read),
            ("cached_content_token_count", count("cached_content_token_count")),
            ("cached_tokens in the details", _count_in(details, "cached_tokens", "cache_read")),
            ("prompt_cache_hit_tokens", count("prompt_cache_hit_tokens")),
            ("cache_n in the timings", _count_in(timings, "cache_n")),
        ],
    )
    yield (
        "cache_write_prompt_tokens",
        [
            ("cache_write_prompt_tokens", count("cache_write_prompt_tokens")),
            (_ANTHROPIC_WRITE, written),
            ("cache_creation in the details", _count_in(details, "cache_creation", "cache_write_tokens")),
        ],
    )


def _complete_by_timings(fields: dict[str, Any], timings: Any) -> None:
    """Fill in the counts that only llama.cpp's timings have. Old versions do not count what they read from the cache."""
    read, processed = _count_in(timings, "cache_n"), _count_in(timings, "prompt_n")
    if read is None or processed is None:
        return

    fields.setdefault("prompt_tokens", min(read + processed, MAX_COUNT))
    generated = _count_in(timings, "predicted_n")
    if generated is not None:
        fields.setdefault("completion_tokens", generated)


def _complete_by_total(fields: dict[str, Any], named: Mapping[str, Any]) -> None:
    """Fill in the count that only the total implies."""
    total = named.get("total_tokens", named.get("total_token_count"))
    if total is None:
        return

    prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if prompt is None and completion is None:
        fields["prompt_tokens"] = total  # as providers of embeddings write it
    elif prompt is None:
        fields["prompt_tokens"] = max(0, total - completion)
    elif completion is None and total > prompt:
        fields["completion_tokens"] = total - prompt


def field_of(fields: Any, name: str) -> Any:
    """Return a field of a mapping or of an SDK's object; None if it has none."""
    return fields.get(name) if isinstance(fields, Mapping) else getattr(fields, name, None)


def _count_in(fields: Any, *names: str) -> int | None:
    """Return the first count that ``fields`` has under one of ``names``."""
    return next((count for name in names if (count := _count(field_of(fields, name))) is not None), None)


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _count(value: Any) -> int | None:
    """Return a value as a count; None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)

    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        return None

    return int(value)


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else f"a {type(value).__qualname__}"
