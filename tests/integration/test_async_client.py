"""`AsyncClient` against a scripted daemon, and against the real one."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from sidecard_client import (
    AsyncClient,
    CallFailed,
    CallRejected,
    CallTimeout,
    RequestRefused,
    SidecardWarning,
    UnkeyableRequest,
    UnshareableValue,
)
from sidecard_client.protocol import wire
from tests.daemons import Daemon, until
from tests.scripted_daemon import PENDING, After, ScriptedDaemon, hit, lease, shared

pytestmark = pytest.mark.anyio


@pytest.fixture
def scripted(socket_path: str) -> Iterator[ScriptedDaemon]:
    """Start a daemon that grants every lease unless scripted otherwise."""
    with ScriptedDaemon(socket_path) as daemon:
        yield daemon


async def ask_model(prompt: str, *, loud: bool = False) -> str:
    """Be the call that costs something."""
    await anyio.lowlevel.checkpoint()
    return prompt.upper() if loud else f"about {prompt}"


class Model:
    """An SDK's client."""

    name = "small"

    async def generate(self, prompt: str) -> str:
        """Answer, as SDKs do."""
        return await ask_model(prompt)

    def count(self, prompt: str) -> int:
        """Answer without awaiting."""
        return len(prompt)


# What each answer means ------------------------------------------------------------------------------------------------


async def test_a_hit_is_the_value_and_the_function_does_not_run(scripted: ScriptedDaemon) -> None:
    """The outcome says what was saved."""
    scripted.script(wire.Begin, hit("stored", age_seconds=3.0, backend="cloud"))

    async with AsyncClient(scripted.path) as sidecard:
        outcome = await sidecard.outcome(ask_model, "x")

    assert (outcome.value, outcome.source, outcome.backend) == ("stored", "cache", "cloud")
    assert (outcome.age_seconds, outcome.saved_seconds, outcome.saved_dollars) == (3.0, 2.0, 0.25)
    assert scripted.requests(wire.Complete) == []


@pytest.mark.parametrize(
    ("reply", "source"),
    [(hit("v", stale=True), "stale"), (shared("v"), "shared"), ([PENDING, shared("v")], "shared")],
)
async def test_other_answers_with_a_value(scripted: ScriptedDaemon, reply: Any, source: str) -> None:
    """Immediately or after a wait."""
    scripted.script(wire.Begin, reply)

    async with AsyncClient(scripted.path) as sidecard:
        outcome = await sidecard.outcome(ask_model, "x")

    assert (outcome.value, outcome.source) == ("v", source)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_lease_makes_the_call_and_completes_it(scripted: ScriptedDaemon, waits: bool) -> None:
    """The begin carries the policy, the complete the value, its usage, its lifetime and its tags."""
    granted = lease()
    scripted.script(wire.Begin, [PENDING, granted] if waits else granted)

    async with AsyncClient(scripted.path, namespace="n") as sidecard:
        outcome = await sidecard.outcome(
            ask_model, "x", loud=True, task="rag", ttl=60, wait=5, tags=["t"], usage=lambda _: {"cost_dollars": 0.5}
        )

    (begin,) = scripted.requests(wire.Begin)
    (complete,) = scripted.requests(wire.Complete)
    assert (outcome.value, outcome.source) == ("X", "upstream")
    assert (begin.namespace, begin.task, begin.ttl_seconds, begin.wait_seconds) == ("n", "rag", 60.0, 5.0)
    assert (complete.lease, bytes(complete.value)) == (granted.lease, wire.pack("X"))
    assert (complete.usage, complete.ttl_seconds, complete.tags) == (wire.Usage(cost_dollars=0.5), 60.0, ("t",))


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (wire.Failed(0, "fatal", "bad prompt"), CallFailed, "bad prompt"),
        (wire.Failed(0, "transient", "later"), CallFailed, "later"),
        (wire.Failed(0, "cancelled", "gave up"), CallFailed, "gave up"),
        (wire.Rejected(0, "not_cached"), CallRejected, "not_cached"),
        (wire.Rejected(0, "budget", 9.0), CallRejected, "try again in 9 s"),
        (wire.Timeout(0, 5.0), CallTimeout, "another caller's"),
    ],
)
async def test_answers_without_a_value_raise(
    scripted: ScriptedDaemon, reply: wire.Reply, error: type[Exception], text: str
) -> None:
    """The function does not run."""
    scripted.script(wire.Begin, [PENDING, reply])

    async with AsyncClient(scripted.path) as sidecard:
        with pytest.raises(error, match=text):
            await sidecard.call(ask_model, "x")


async def test_a_failure_that_cannot_be_shared_makes_the_own_call(scripted: ScriptedDaemon) -> None:
    """On the backend and at the time that the daemon decides; the call is not shared."""
    scripted.script(wire.Begin, [PENDING, wire.Failed(0, "ignored", "")])

    async with AsyncClient(scripted.path) as sidecard:
        outcome = await sidecard.outcome(ask_model, "x")

    assert (outcome.value, outcome.source) == ("about x", "upstream")
    first, second = scripted.requests(wire.Begin)
    assert first.key is not None
    assert second.key is None


@pytest.mark.parametrize("reason", ["busy", "draining"])
async def test_a_daemon_that_takes_no_more_is_done_without(scripted: ScriptedDaemon, reason: Any) -> None:
    """Unless the policy asks for the error."""
    scripted.always(wire.Begin, wire.Rejected(0, reason))

    async with AsyncClient(scripted.path) as sidecard:
        assert (await sidecard.outcome(ask_model, "x")).source == "fallback"
        with pytest.raises(CallRejected, match=reason):
            await sidecard.call(ask_model, "x", on_unavailable="raise")


async def test_a_refused_begin_falls_back_and_warns(scripted: ScriptedDaemon) -> None:
    """A daemon that denies does not fail the app."""
    scripted.always(wire.Begin, wire.Error(0, "denied", "not yours"))

    async with AsyncClient(scripted.path) as sidecard:
        with pytest.warns(SidecardWarning, match="not yours"):
            assert (await sidecard.outcome(ask_model, "x")).source == "fallback"

        with pytest.raises(RequestRefused, match="not yours"):
            await sidecard.call(ask_model, "x", on_unavailable="raise")


# The function ----------------------------------------------------------------------------------------------------------


async def test_a_functions_exception_reaches_its_caller_as_it_is(scripted: ScriptedDaemon) -> None:
    """The daemon gets the failure's kind and text."""
    fault = ValueError("no such model")

    async def fails() -> str:
        raise fault

    async with AsyncClient(scripted.path) as sidecard:
        with pytest.raises(ValueError, match="no such model") as caught:
            await sidecard.call(fails, name="fails")

    assert caught.value is fault
    (fail,) = scripted.wait_for(wire.Fail)
    assert (fail.kind, fail.message, fail.next) == ("fatal", "ValueError: no such model", False)


async def test_the_next_backend_is_asked_for_where_the_first_fails(scripted: ScriptedDaemon) -> None:
    """Under the lease that the daemon grants for it."""
    second = lease("cloud", attempt=2)
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, second)

    async def local(prompt: str, *, loud: bool = False) -> str:
        raise ConnectionError(prompt, loud)

    async with AsyncClient(scripted.path) as sidecard:
        outcome = await sidecard.outcome({"local": local, "cloud": ask_model}, "x", name="n")

    assert (outcome.value, outcome.backend, outcome.source) == ("about x", "cloud", "upstream")
    assert scripted.requests(wire.Begin)[0].backends == ("local", "cloud")
    assert [fail.next for fail in scripted.requests(wire.Fail)] == [True]
    assert scripted.requests(wire.Complete)[0].lease == second.lease


@pytest.mark.parametrize(("reply", "made"), [(wire.StaleLease(0), True), (wire.Ok(0), False)])
async def test_a_void_lease_does_not_keep_the_next_backend_from_answering(
    scripted: ScriptedDaemon, reply: wire.Reply, made: bool
) -> None:
    """Only the daemon's `Ok` says that there is no other backend."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, reply)

    async def local(prompt: str, *, loud: bool = False) -> str:
        raise ConnectionError("down", prompt, loud)

    async with AsyncClient(scripted.path) as sidecard:
        if made:
            assert await sidecard.call({"local": local, "cloud": ask_model}, "x", name="n") == "about x"
        else:
            with pytest.raises(ConnectionError, match="down"):
                await sidecard.call({"local": local, "cloud": ask_model}, "x", name="n")


async def test_plain_functions_run_in_threads(scripted: ScriptedDaemon) -> None:
    """Whether they block is unknown; what they return may still have to be awaited."""
    threads = []

    def plain(prompt: str) -> str:
        threads.append(threading.get_ident())
        return prompt

    def lazy(prompt: str) -> Any:
        return ask_model(prompt)

    async with AsyncClient(scripted.path) as sidecard:
        assert await sidecard.call(plain, "x", name="plain") == "x"
        assert await sidecard.call(lazy, "x", name="lazy") == "about x"

    assert threads != [threading.get_ident()]


async def test_a_value_that_cannot_be_shared_is_returned_and_the_waiters_released(
    scripted: ScriptedDaemon, anyio_backend_name: str
) -> None:
    """With one warning that names function and type."""

    async def two_numbers() -> object:
        return 1, 2

    two_numbers.__qualname__ += f" on {anyio_backend_name}"  # a function is warned of once in a process
    async with AsyncClient(scripted.path) as sidecard:
        with pytest.warns(SidecardWarning, match=r"two_numbers.*tuple"):
            assert await sidecard.call(two_numbers, name="two") == (1, 2)

    assert scripted.wait_for(wire.Fail)[0].kind == "ignored"
    assert scripted.requests(wire.Complete) == []


async def test_cached_and_wrap_make_calls_of_functions_and_methods(scripted: ScriptedDaemon) -> None:
    """Each is awaited; equal arguments are one key, and all keywords go to the function."""
    model = Model()
    async with AsyncClient(scripted.path) as sidecard:
        answer = sidecard.cached(task="rag")(ask_model)
        shared_model = sidecard.wrap(model, task="general")

        assert await answer("x", loud=True) == "X"
        assert await shared_model.generate("x") == "about x"
        assert await sidecard.wrap(Model()).generate("x") == "about x"
        assert shared_model.name == "small"

    begins = scripted.requests(wire.Begin)
    assert [begin.task for begin in begins] == ["rag", "general", "general"]
    assert begins[0].key != begins[1].key == begins[2].key


async def test_a_plain_method_of_a_wrapped_object_is_awaited_too(scripted: ScriptedDaemon) -> None:
    """A proxy cannot know which of its methods have an answer in store."""
    async with AsyncClient(scripted.path) as sidecard:
        assert await sidecard.wrap(Model()).count("four") == 4  # type: ignore[misc]  # the proxy's type is the model's


async def test_arguments_without_a_key_are_the_callers_error(scripted: ScriptedDaemon) -> None:
    """Nothing is sent."""
    async with AsyncClient(scripted.path) as sidecard:
        with pytest.raises(UnkeyableRequest, match="name="):
            await sidecard.call(lambda: None)

        with pytest.raises(TypeError, match=r"call\(f, x\)"):
            await sidecard.call("text")  # type: ignore[call-overload]  # the mistake that is tested

    assert scripted.requests() == []


# Entries and the daemon ------------------------------------------------------------------------------------------------


async def test_entries_are_read_written_and_removed(scripted: ScriptedDaemon) -> None:
    """Each by its own request, in the client's namespace or another."""
    scripted.script(wire.Get, hit({"a": 1}))

    async with AsyncClient(scripted.path, namespace="n") as sidecard:
        assert await sidecard.get("k") == {"a": 1}
        assert await sidecard.get("k", "nothing", namespace="m") == "nothing"
        assert await sidecard.put("k", [1, "b"], ttl=5, tags=["t"])
        assert await sidecard.delete("k") == 1
        assert await sidecard.purge(namespace="n", tag="t") == 2
        with pytest.raises(UnshareableValue, match="tuple"):
            await sidecard.put("k", (1, 2))

    assert [request.namespace for request in scripted.requests(wire.Get)] == ["n", "m"]
    (put,) = scripted.requests(wire.Put)
    assert (put.key, bytes(put.value), put.ttl_seconds, put.tags) == ("k", wire.pack([1, "b"]), 5.0, ("t",))
    assert (scripted.requests(wire.Delete)[0].namespace, scripted.requests(wire.Purge)[0].tag) == ("n", "t")


async def test_a_refused_request_says_what_to_change(scripted: ScriptedDaemon) -> None:
    """The daemon's own sentence."""
    scripted.script(wire.Purge, wire.Error(0, "denied", "Only operators purge."))

    async with AsyncClient(scripted.path) as sidecard:
        with pytest.raises(RequestRefused, match="Only operators purge"):
            await sidecard.purge()


async def test_a_thousand_calls_share_one_connection(scripted: ScriptedDaemon) -> None:
    """They all wait at the same time, and each gets its own answer."""
    answer = threading.Event()
    scripted.always(wire.Begin, lambda begin: [PENDING, After(answer, hit(begin.key))])
    values = []

    async with AsyncClient(scripted.path, daemon_timeout=10.0) as sidecard:

        async def ask(number: int) -> None:
            values.append((f"k{number}", await sidecard.call(ask_model, "x", key=f"k{number}")))

        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(ask, number)

            await anyio.to_thread.run_sync(scripted.wait_for, wire.Begin, 1000)
            answer.set()

    assert len(values) == 1000
    assert all(key == value for key, value in values)
    begins = {taken.connection for taken in scripted.taken if isinstance(taken.request, wire.Begin)}
    assert begins == {0}


# Where a client may be used --------------------------------------------------------------------------------------------


async def test_a_client_opens_itself_at_each_use(scripted: ScriptedDaemon) -> None:
    """A client works before ``async with``, within it and after it, and may be closed any number of times."""
    sidecard = AsyncClient(scripted.path)
    await sidecard.aclose()
    await sidecard.ping()
    for _ in range(2):
        async with sidecard as entered, entered:
            await sidecard.ping()

        await sidecard.aclose()

    assert {taken.connection for taken in scripted.taken} == {0, 1}
    await sidecard.ping()
    await sidecard.aclose()
    assert {taken.connection for taken in scripted.taken} == {0, 1, 2}


async def test_each_event_loop_has_a_connection_of_its_own(scripted: ScriptedDaemon) -> None:
    """One client serves loops of several threads and of both kinds; calls wait for each other across loops."""
    sidecard = AsyncClient(scripted.path)
    await sidecard.ping()
    for backend in ("asyncio", "trio", "asyncio"):

        def in_another_thread(backend: str = backend) -> str:
            return anyio.run(sidecard.call, ask_model, backend, backend=backend)

        assert await anyio.to_thread.run_sync(in_another_thread) == f"about {backend}"

    await sidecard.ping()
    assert [taken.connection for taken in scripted.taken if isinstance(taken.request, wire.Begin)] == [1, 2, 3]
    assert [taken.connection for taken in scripted.taken if isinstance(taken.request, wire.Ping)] == [0, 0]
    await until(lambda: sorted(scripted.ended) == [1, 2, 3])
    await sidecard.aclose()


# The real daemon -------------------------------------------------------------------------------------------------------


async def test_two_clients_of_the_real_daemon_share(daemon: Callable[..., Daemon]) -> None:
    """One upstream call in flight, then a hit; the numbers of `report` and `stats` agree."""
    path = daemon().socket
    asked = []

    async def slow(prompt: str) -> str:
        asked.append(prompt)
        await anyio.sleep(0.2)
        return f"about {prompt}"

    async with AsyncClient(path) as one, AsyncClient(path) as other:
        outcomes = []

        async def ask(sidecard: AsyncClient) -> None:
            outcomes.append(await sidecard.outcome(slow, "x", name="slow"))

        async with anyio.create_task_group() as tasks:
            for sidecard in [one, other] * 10:
                tasks.start_soon(ask, sidecard)

        outcomes.append(await other.outcome(slow, "x", name="slow"))
        stats, report = await one.stats(), await other.report()
        assert (await one.health()).status == "ok"

    assert asked == ["x"]
    assert {outcome.value for outcome in outcomes} == {"about x"}
    assert sorted(outcome.source for outcome in outcomes) == ["cache"] + ["shared"] * 19 + ["upstream"]
    assert (stats.hits, stats.shared, stats.completed, stats.peers) == (1, 19, 1, 2)
    assert (report.total.hits, report.total.shared, report.total.upstream_calls) == (1, 19, 1)


async def test_large_values_pass_beside_small_ones(daemon: Callable[..., Daemon]) -> None:
    """Larger than any socket buffer, in both directions, while others go on."""
    value = "x" * (8 * 1024 * 1024)
    async with AsyncClient(daemon().socket, daemon_timeout=5.0) as sidecard:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(sidecard.put, f"large{number}", value)
                tasks.start_soon(sidecard.put, f"small{number}", number)

        assert [await sidecard.get(f"large{number}") == value for number in range(3)] == [True] * 3
        assert [await sidecard.get(f"small{number}") for number in range(3)] == [0, 1, 2]
