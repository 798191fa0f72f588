"""A usage as messages have it, and as the daemon accepts it: in the words of any provider."""

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from sidecard_client.protocol.usage import counts_of
from sidecard_client.protocol.values import Count, Dollars, Name, Seconds


class Usage(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a call used, as its caller reports it. Replies return it as the entry's ``meta``."""

    model: Name | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_dollars: Dollars | None = None
    """None lets the daemon compute it from its prices, if it has one for the backend and model."""
    first_chunk_seconds: Seconds | None = None
    """From the call's start to the answer's first chunk: a measure of load that ignores the answer's length."""
    cached_prompt_tokens: Count | None = None
    """Those of ``prompt_tokens`` that the backend read from its own cache."""
    cache_write_prompt_tokens: Count | None = None
    """Those of ``prompt_tokens`` that the backend wrote to its own cache."""


class _InputDetails(Struct, frozen=True, gc=False):
    """OpenAI's details of the input."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _WireUsage(Usage, frozen=True, omit_defaults=True, gc=False, eq=False):
    """A usage as the daemon accepts it: in the words of any provider (`sidecard_client.protocol.usage`).

    It equals the `Usage` that means the same.
    """

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    input_tokens_details: _InputDetails | None = None
    prompt_token_count: Count | None = msgspec.field(default=None, name="promptTokenCount")
    candidates_token_count: Count | None = msgspec.field(default=None, name="candidatesTokenCount")
    cached_content_token_count: Count | None = msgspec.field(default=None, name="cachedContentTokenCount")
    thoughts_token_count: Count | None = msgspec.field(default=None, name="thoughtsTokenCount")
    tool_use_prompt_token_count: Count | None = msgspec.field(default=None, name="toolUsePromptTokenCount")
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and in_own_words(self) == in_own_words(other)

    def __hash__(self) -> int:
        return hash(in_own_words(self))


if TYPE_CHECKING:
    ReportedUsage = Usage
else:
    ReportedUsage = _WireUsage
    """Sent as `Usage`; decoded with the fields of the providers, which `in_own_words` turns into a `Usage`."""


def in_own_words(reported: Usage) -> Usage:
    """Return a decoded usage in the fields of `Usage` alone."""
    if type(reported) is Usage:
        return reported

    values = structs.astuple(reported)
    own = len(Usage.__struct_fields__)
    if all(value is None for value in values[own:]):
        return Usage(*values[:own])

    return Usage(**counts_of(structs.asdict(reported)).fields)
