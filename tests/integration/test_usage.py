"""What a call used, in the words of any provider, is what the daemon bills."""

import json
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from sidecard_client import SidecardWarning
from sidecard_client.call import warn
from sidecard_client.openpipe import OpenPipeClient, OpenPipeLLMWrapper
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, ask

PRICES = {
    "input_dollars_per_million_tokens": 1000.0,
    "output_dollars_per_million_tokens": 10_000.0,
    "cached_input_dollars_per_million_tokens": 100.0,
    "cache_write_dollars_per_million_tokens": 2000.0,
}
"""Of the backend ``cloud``."""

USAGES: list[tuple[Any, float]] = [
    ({"prompt_tokens": 400, "completion_tokens": 50}, 0.4 + 0.5),
    ({"input_tokens": 400, "output_tokens": 50}, 0.4 + 0.5),
    (SimpleNamespace(usage=SimpleNamespace(input_tokens=400, output_tokens=50), model="m"), 0.4 + 0.5),
    (
        {"prompt_tokens": 400, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 300}},
        0.1 + 0.03 + 0.5,
    ),
    (
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 200,
            "cache_creation_input_tokens": 100,
            "output_tokens": 50,
        },
        0.1 + 0.02 + 0.2 + 0.5,
    ),
    ({"usageMetadata": {"promptTokenCount": 400, "candidatesTokenCount": 30, "thoughtsTokenCount": 20}}, 0.9),
    ({"prompt_eval_count": 400, "eval_count": 50, "response": "Paris", "done": True}, 0.9),
]


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with prices for ``cloud``."""
    warn._warned_of.clear()
    return daemon("--no-state", SIDECARD_BACKENDS=json.dumps({"cloud": PRICES}))


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, running: Daemon) -> Iterator[Caller]:
    """A client of each kind."""
    with connecting(request.param, running.socket) as connect:
        yield connect(daemon_timeout=5)


def answer(number: int) -> str:
    """Answer."""
    return f"answer {number}"


def pieces(number: int) -> Iterator[str]:
    """Answer in pieces."""
    yield from ("answer", str(number))


def test_every_spelling_costs_what_it_should(client: Caller) -> None:
    """The daemon bills the counts, and the next caller saves their cost."""
    billed = 0.0
    for number, (usage, dollars) in enumerate(USAGES):
        policy = {"backend": "cloud", "usage": lambda _, usage=usage: usage}
        client.outcome(answer, number, **policy)
        billed += dollars
        assert client.ask("report").total.billed_dollars == pytest.approx(billed)
        assert client.outcome(answer, number, **policy).saved_dollars == pytest.approx(dollars)


def test_a_field_without_a_meaning_warns_once(client: Caller) -> None:
    """The warning lists those that have one, and the rest of the usage counts."""
    policy = {"backend": "cloud", "usage": lambda _: {"tokens_in": 400, "output_tokens": 50}}
    with pytest.warns(
        SidecardWarning, match=r"usage= of answer returned 'tokens_in'.*prompt_tokens.*input_tokens"
    ) as warned:
        client.outcome(answer, 1, **policy)

    assert len(warned) == 1
    client.outcome(answer, 2, **policy)
    assert client.ask("report").total.billed_dollars == pytest.approx(1.0)


def test_two_names_with_two_values_cost_the_larger(client: Caller) -> None:
    """The larger of two contradictory counts is billed, with a warning."""
    policy = {"backend": "cloud", "usage": lambda _: {"prompt_tokens": 300, "input_tokens": 400}}
    with pytest.warns(SidecardWarning, match="prompt_tokens is 300, but input_tokens is 400"):
        client.outcome(answer, 1, **policy)

    assert client.ask("report").total.billed_dollars == pytest.approx(0.4)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_stream_and_an_openpipe_wrapper_report_the_same(kind: str, running: Daemon) -> None:
    """They read usage as calls do."""

    def usage(_: Any) -> dict[str, int]:
        return {"input_tokens": 400, "output_tokens": 50}

    async def stream(sidecard: Any) -> list[str]:
        return [piece async for piece in sidecard.stream(pieces, 1, backend="cloud", usage=usage)]

    with connecting(kind, running.socket) as connect:
        caller = connect(daemon_timeout=5)
        if caller.portal is None:
            assert list(caller.sidecard.stream(pieces, 1, backend="cloud", usage=usage)) == ["answer", "1"]
        else:
            assert caller.portal.call(stream, caller.sidecard) == ["answer", "1"]

        assert caller.ask("report").total.billed_dollars == pytest.approx(0.9)

    async def wrapped() -> str:
        openpipe = OpenPipeClient({"openpipe": {"socket": running.socket}})
        await openpipe.initialize()
        llm = SimpleNamespace(generate=lambda prompt: f"about {prompt}")
        text = await OpenPipeLLMWrapper(llm, openpipe, usage=usage, backend="cloud").generate("p")
        await openpipe.shutdown()
        return text

    assert anyio.run(wrapped) == "about p"
    report = ask(running.socket, {"op": "report"})
    assert report["total"]["billed_dollars"] == pytest.approx(1.8)  # type: ignore[index]  # JSON


def test_programs_without_the_client_may_use_either_spelling(running: Daemon) -> None:
    """Lines of JSON, as ``socat`` sends them."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as lines:
        connection.settimeout(10)
        connection.connect(running.socket)

        def say(**request: Any) -> Any:
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            return json.loads(lines.readline())

        for number, usage in enumerate(usage for usage, _ in USAGES if isinstance(usage, dict)):
            lease = say(op="begin", key=f"k{number}", backends=["cloud"])["lease"]
            said = say(op="complete", lease=lease, value="v", usage=usage.get("usageMetadata", usage))
            assert said["type"] == "stored"

        dollars = sum(dollars for usage, dollars in USAGES if isinstance(usage, dict))
        assert say(op="report")["total"]["billed_dollars"] == pytest.approx(dollars)
        hit = say(op="begin", key="k1")
        assert hit["meta"] == {"prompt_tokens": 400, "completion_tokens": 50, "cost_dollars": pytest.approx(0.9)}


@pytest.mark.parametrize(
    "usage", [3, "400", {"input_tokens": -1}, {"input_tokens": float("nan")}, {"output_tokens": 2**60}]
)
def test_a_usage_that_makes_no_sense_loses_the_price_alone(usage: Any, client: Caller) -> None:
    """The warning says which field, and what to return."""
    policy = {"backend": "cloud", "usage": lambda _: usage}
    with pytest.warns(SidecardWarning, match="usage= of answer failed.*without its cost.*return a Usage"):
        assert client.outcome(answer, 1, **policy).value == "answer 1"

    assert client.outcome(answer, 1, **policy).source == "cache"
