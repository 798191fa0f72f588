"""A batch: a function that answers a list of inputs, its inputs, and one `Call` for each distinct input. Pure.

The call of an input has its own key, lease and entry, like ``call(function, input)``. Only the upstream call is common: it has
the inputs that this caller must answer, in one list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import fsum
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from sidecard_client.call.call import UNKEYED, Call, Functions, keyed, prepare
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import Outcome, Source, value_of
from sidecard_client.call.usage import read_usage
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol.errors import UnkeyableRequest, UnshareableValue, WrongAnswers
from sidecard_client.protocol.wire import Usage
from sidecard_client.values.codec import unpack_value
from sidecard_client.values.packing import pack_value

MAX_BATCH: Final = 1000
"""Default limit of the inputs of one upstream call. OpenAI takes 2,048, others fewer."""

LARGEST_BATCH: Final = 10_000
"""All leases of an upstream call are held at the same time; the daemon's tables have room for 32,768."""

_TEXTS: Final = (str, bytes, bytearray)

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "cache_write_prompt_tokens")
"""Fields of `Usage` that are divided among inputs."""


class InputBatch(Struct):
    """The distinct calls of a batch. Input number ``i`` is that of ``calls[places[i]]``."""

    calls: list[Call]
    places: list[int]
    max_batch: int = MAX_BATCH

    def upstream(self, calls: Sequence[Call]) -> Call:
        """Return the call that answers the inputs of ``calls`` together."""
        return replace(calls[0], args=([call.args[0] for call in calls],), key=None)

    def in_order(self, outcomes: Sequence[Outcome[Any]]) -> list[Outcome[Any]]:
        """Return the outcome of every input. A repeated input gets a copy of the answer, as every caller does."""
        seen: set[int] = set()
        ordered = []
        for place in self.places:
            outcome = outcomes[place]
            ordered.append(_copied(self.calls[place], outcome) if place in seen else outcome)
            seen.add(place)

        return ordered


def template_of(
    options: Options, function: Functions[Any], inputs: Sequence[Any], keywords: dict[str, Any], max_batch: object
) -> Call | None:
    """Return the call of the first input, with the policy of all of them; None without inputs.

    Raises what `prepare` raises, `TypeError` for ``key=``, and for a wrong ``max_batch`` `TypeError` or `ValueError`.
    """
    if isinstance(max_batch, bool) or not isinstance(max_batch, int):
        raise TypeError(f"max_batch= must be a whole number, not {type(max_batch).__name__}.")

    if not 1 <= max_batch <= LARGEST_BATCH:
        raise ValueError(f"max_batch= must be 1 to {LARGEST_BATCH}, not {max_batch}.")

    if isinstance(keywords.get("key"), str):
        raise TypeError("key= is the key of one answer, and each input has its own: leave it out, or give name=.")

    if not inputs:
        return None

    call = prepare(options, function, (inputs[0],), keywords, each=True)
    # Similarity compares single requests. For a batch of texts to embed, the embedder would run to avoid itself.
    return replace(call, similar=None)


def listed(inputs: Iterable[Any]) -> list[Any]:
    """Return the inputs as a list. Raises `TypeError` for one text or mapping, which is rarely meant as a list."""
    if isinstance(inputs, (*_TEXTS, Mapping)):
        raise TypeError(
            f"The inputs must be a list, not {type(inputs).__name__}: write call_each(f, [x]) for one input."
        )

    return list(inputs)


def batch_of(template: Call, inputs: Sequence[Any], max_batch: int, forms: tuple[NormalForm, ...] | None) -> InputBatch:
    """Make the calls of all inputs. ``forms`` are the task's, for an `UNKEYED` template. Raises `UnkeyableRequest`."""
    if template.key is None:
        # Nothing is shared, so each input is a call of its own.
        return InputBatch([replace(template, args=(one,)) for one in inputs], list(range(len(inputs))), max_batch)

    if forms is None:
        normalize = template.options.normalize
        forms = () if isinstance(normalize, str) else normalize

    calls = []
    for index, one in enumerate(inputs):
        try:
            calls.append(keyed(replace(template, args=(one,), key=UNKEYED), forms))
        except UnkeyableRequest as error:
            raise UnkeyableRequest(f"Input {index}: {error}") from None

    return _distinct(calls, max_batch)


def keyed_batch(options: Options, function: Functions[Any], inputs: Sequence[Any], keys: Sequence[str]) -> InputBatch:
    """Make the calls of all inputs with these keys, as one upstream call. There must be at least one input."""
    template = prepare(replace(options, key=keys[0], embed=None), function, (inputs[0],), {}, each=True)
    calls = [replace(template, args=(one,), key=key) for one, key in zip(inputs, keys, strict=True)]
    return _distinct(calls, LARGEST_BATCH)


def _distinct(calls: Sequence[Call], max_batch: int) -> InputBatch:
    places: list[int] = []
    known: dict[str | None, int] = {}
    distinct: list[Call] = []
    for call in calls:
        place = known.setdefault(call.key, len(distinct))
        if place == len(distinct):
            distinct.append(call)

        places.append(place)

    return InputBatch(distinct, places, max_batch)


def answers_of(function: Any, value: Any, count: int) -> list[Any]:
    """Return the answers in what a function returned for ``count`` inputs. Raises `WrongAnswers`, or what ``value`` raises."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if isinstance(value, (*_TEXTS, Mapping, AbstractSet)) or not isinstance(value, Iterable):
        raise WrongAnswers(
            f"{name}() returned a {type(value).__name__} for {count} inputs: return a list of {count} answers, in order."
        )

    answers = list(value)
    if len(answers) != count:
        raise WrongAnswers(
            f"{name}() returned a list of {len(answers)} for {count} inputs: return one answer for each input, in order."
        )

    return answers


def separated(batch: InputBatch, missing: Sequence[int]) -> list[Call]:
    """Return all calls of a batch, for a client that makes them one after another.

    The functions of those that are ``missing`` take one input; the first one makes the upstream call for all of a group.
    """
    calls = list(batch.calls)
    for start in range(0, len(missing), batch.max_batch):
        group = missing[start : start + batch.max_batch]
        upstream = _GroupCall(calls[0].options, [calls[place].args[0] for place in group])
        for index, place in enumerate(group):
            functions = tuple(upstream.function(function, index) for function in calls[place].functions)
            calls[place] = replace(calls[place], functions=functions, options=replace(calls[place].options, usage=None))

    return calls


class _GroupCall(Struct):
    """One upstream call, made when the first of its inputs is asked for."""

    options: Options
    inputs: list[Any]
    answers: list[Any] = []
    answered_by: Callable[..., Any] | None = None
    errors: dict[Callable[..., Any], BaseException] = {}

    def function(self, function: Callable[..., Any], index: int) -> Callable[..., Any]:
        def answer(_: Any, **kwargs: Any) -> Any:
            if self.answered_by is None:
                self._call(function, kwargs)
            elif self.answered_by is not function:
                raise self.errors[function]

            return self.answers[index]

        return answer

    def _call(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        try:
            value = function(list(self.inputs), **kwargs)
            self.answers = answers_of(function, value, len(self.inputs))
        except BaseException as error:
            self.errors[function] = error
            raise

        self.answered_by = function
        read_usage(self.options, value, function)


def usage_shares(usage: Usage | None, inputs: Sequence[Any]) -> list[Usage | None]:
    """Divide the usage of an upstream call among its inputs, by the length of texts and lists. The sums are exact."""
    if usage is None:
        return [None] * len(inputs)

    weights = [max(1, len(one)) if isinstance(one, str | list) else 1 for one in inputs]
    shares: dict[str, Sequence[int | None] | Sequence[float | None]] = {
        name: divided(getattr(usage, name), weights) for name in _COUNTS
    }
    shares["cost_dollars"] = _divided_dollars(usage.cost_dollars, weights)
    return [replace(usage, **{name: parts[index] for name, parts in shares.items()}) for index in range(len(inputs))]


def divided(total: int | None, weights: Sequence[int]) -> Sequence[int | None]:
    """Divide a whole number in proportion to weights; the largest remainders are rounded up."""
    if total is None:
        return [None] * len(weights)

    whole = sum(weights)
    parts = [divmod(total * weight, whole) for weight in weights]
    left = total - sum(part for part, _ in parts)
    order = sorted(range(len(parts)), key=lambda index: -parts[index][1])
    more = set(order[:left])
    return [part + (index in more) for index, (part, _) in enumerate(parts)]


def _divided_dollars(total: float | None, weights: Sequence[int]) -> Sequence[float | None]:
    if total is None:
        return [None] * len(weights)

    whole = sum(weights)
    parts = [total * weight / whole for weight in weights[:-1]]
    return [*parts, max(0.0, total - fsum(parts))]


_WEAKEST: Final[Sequence[Source]] = ("cache", "stale", "shared", "fallback", "upstream")
"""From the cheapest to the dearest: the source of a batch is the dearest of its inputs' sources."""


def summary_of(outcomes: Sequence[Outcome[Any]]) -> Outcome[Any]:
    """Return one outcome for all inputs: the dearest source, the greatest age, and the sums of what was saved."""
    chosen = max(outcomes, key=lambda outcome: _WEAKEST.index(outcome.source))
    return replace(
        chosen,
        age_seconds=max(outcome.age_seconds for outcome in outcomes),
        saved_seconds=sum(outcome.saved_seconds for outcome in outcomes),
        saved_dollars=sum(outcome.saved_dollars for outcome in outcomes),
        waited_seconds=max(outcome.waited_seconds for outcome in outcomes),
        attempts=max(outcome.attempts for outcome in outcomes),
    )


def _copied(call: Call, outcome: Outcome[Any]) -> Outcome[Any]:
    try:
        return replace(outcome, value=value_of(call, unpack_value(pack_value(outcome.value, call.codec))))
    except UnshareableValue:
        return outcome
