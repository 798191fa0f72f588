"""What a call is, and what each answer means for it."""

import warnings
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from sidecard_client.call import call as calls
from sidecard_client.call import completion, outcome
from sidecard_client.call.call import Call
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import NextStep, Outcome
from sidecard_client.call.usage import read_usage
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import (
    CallFailed,
    CallRejected,
    CallTimeout,
    DaemonUnavailable,
    ProtocolError,
    RequestRefused,
    SidecardWarning,
    UnkeyableRequest,
    UnshareableValue,
)

DEFAULTS = Options()

LEASE = wire.Lease(1, "l", "default", 30.0, 1)


def small(prompt: str) -> str:
    """Answer cheaply."""
    return prompt


def big(prompt: str) -> str:
    """Answer dearly."""
    return prompt


def prepared(function: Any = small, *args: Any, **kwargs: Any) -> Call:
    """Prepare with the defaults."""
    return calls.prepare(DEFAULTS, function, args or ("p",), kwargs)


def test_prepare_makes_the_key_of_all_that_counts() -> None:
    """The key covers task, model, name and arguments."""
    call = prepared(small, "p", task="rag", model="m")
    assert call.key == fingerprint("rag", "m", name_of(small), ("p",), {})


def test_prepare_gives_the_name_in_place_of_the_functions() -> None:
    """A lambda needs ``name=``."""
    assert prepared(lambda prompt: prompt, "p", name="n").key == fingerprint("general", None, "n", ("p",), {})


def test_prepare_without_a_stable_name() -> None:
    """The error says what to pass."""
    with pytest.raises(UnkeyableRequest, match="name="):
        prepared(lambda prompt: prompt, "p")


def test_prepare_takes_a_key_as_it_is() -> None:
    """``key=`` replaces the computed key, and needs no name and no keyable argument."""
    assert prepared(lambda prompt: prompt, object(), key="k").key == "k"
    assert prepared(lambda prompt: prompt, object(), key=None).key is None


def test_prepare_with_backends_shares_one_key_between_them() -> None:
    """The first function names the key of all backends."""
    call = prepared({"local": small, "cloud": big}, "p")
    assert call.backends == ("local", "cloud")
    assert call.key == prepared(small, "p").key
    assert call.function_of("cloud") is big


@pytest.mark.parametrize("nonsense", ["text", 3, None, {}, {"a": 3}, {3: small}, {"": small}])
def test_prepare_refuses_what_cannot_be_called(nonsense: Any) -> None:
    """Calling the function oneself, the most frequent mistake, is an error with and without a policy."""
    with pytest.raises((TypeError, ValueError)):
        prepared(nonsense, "p")

    with pytest.raises((TypeError, ValueError)):
        prepared(nonsense, "p", task="rag")


def test_prepare_says_how_a_call_is_written() -> None:
    """The error names the mistake."""
    with pytest.raises(TypeError, match=r"not str: write call\(f, x\), not call\(f\(x\)\)"):
        prepared("an answer")


def test_backend_of_a_lease() -> None:
    """A single function serves every name; among several, an unknown name means the preferred one."""
    assert prepared(small).backend_of("default") == "default"
    assert prepared(small).function_of("default") is small
    several = prepared({"local": small, "cloud": big})
    assert several.backend_of("cloud") == "cloud"
    assert several.backend_of("default") == "local"


def test_begin_carries_the_policy() -> None:
    """A begin carries what the daemon needs, and nothing else."""
    call = prepared(
        {"local": small}, "p", task="rag", namespace="team", ttl=600, wait=30, mode="refresh", route="cheapest"
    )
    expected = wire.Begin(
        id=7,
        key=call.key,
        namespace="team",
        task="rag",
        backends=("local",),
        wait_seconds=30.0,
        ttl_seconds=600.0,
        mode="refresh",
        route="cheapest",
    )
    assert call.begin(7) == expected
    assert call.begin(7, 2.5).wait_seconds == 2.5


def test_a_single_function_goes_to_its_backend() -> None:
    """The backend does not change the key; every lease means that backend."""
    call = prepared(small, "p", backend="cloud")
    assert call.begin(1).backends == ("cloud",)
    assert call.key == prepared(small, "p").key
    assert call.backend_of("default") == "cloud"
    assert call.function_of("cloud") is small
    assert call.untried([]) == [("cloud", small)]
    assert prepared(small).begin(1).backends == ()


def test_a_dict_of_functions_names_its_backends_itself() -> None:
    """``backend=`` beside a dict is ambiguous."""
    with pytest.raises(TypeError, match="backend='cloud' is for a single function"):
        prepared({"local": small, "cloud": big}, "p", backend="cloud")


def hit(**changes: Any) -> wire.Hit:
    """Build a stored answer."""
    reply = wire.Hit(
        id=1, value="v", age_seconds=3.0, stale=False, saved_seconds=2.0, saved_dollars=0.5, backend="b", meta={}
    )
    return msgspec.structs.replace(reply, **changes)


def resolve(reply: wire.Reply, **policy: Any) -> Any:
    """Resolve with a policy."""
    return outcome.resolve(prepared(small, "p", **policy), reply, 0.25)


def test_resolve_answers() -> None:
    """Stored, stale and shared answers report their source."""
    assert resolve(hit()) == Outcome("v", "cache", 3.0, "b", 2.0, 0.5, 0.25)
    assert resolve(hit(stale=True)).source == "stale"
    shared = msgspec.convert(msgspec.to_builtins(hit()) | {"type": "shared"}, wire.Shared)
    assert resolve(shared) == Outcome("v", "shared", 3.0, "b", 2.0, 0.5, 0.25)


@pytest.mark.parametrize("reason", ["busy", "draining"])
def test_resolve_a_full_daemon(reason: str) -> None:
    """A full daemon counts as absent, or is an error if the caller asked for one."""
    reply = wire.Rejected(id=1, reason=reason, retry_after_seconds=2)  # type: ignore[arg-type]  # a parameter's str
    assert resolve(reply) is NextStep.WITHOUT_DAEMON
    with pytest.raises(CallRejected) as caught:
        resolve(reply, on_unavailable="raise")

    assert (caught.value.reason, caught.value.retry_after_seconds) == (reason, 2)


@pytest.mark.parametrize("reason", ["not_cached", "breaker_open", "saturated", "sovereign", "budget"])
def test_resolve_a_rejection_by_policy(reason: str) -> None:
    """A call must not evade a policy by falling back."""
    with pytest.raises(CallRejected, match=reason) as caught:
        resolve(wire.Rejected(id=1, reason=reason, retry_after_seconds=3.0, backends={"local": reason}))  # type: ignore[arg-type,dict-item]  # a parameter's str

    assert (caught.value.retry_after_seconds, caught.value.backends) == (3.0, {"local": reason})
    assert caught.value.status is None
    with pytest.raises(CallRejected) as caught:
        resolve(wire.Rejected(id=1, reason="breaker_open", status=429))

    assert caught.value.status == 429


def test_resolve_a_failure() -> None:
    """The holder's failure is raised, unless only its answer could not be shared."""
    with pytest.raises(CallFailed) as caught:
        resolve(wire.Failed(id=1, kind="fatal", message="bad prompt"))

    assert (caught.value.kind, caught.value.message, caught.value.detail) == ("fatal", "bad prompt", None)
    with pytest.raises(CallFailed) as caught:
        resolve(wire.Failed(id=1, kind="fatal", message="bad prompt", detail={"status": 400}))

    assert caught.value.detail == {"status": 400}
    assert resolve(wire.Failed(id=1, kind="ignored", message="")) is NextStep.OWN_CALL


def test_resolve_a_timeout() -> None:
    """The error carries the caller's own waiting time."""
    with pytest.raises(CallTimeout) as caught:
        resolve(wire.Timeout(id=1, waited_seconds=9))

    assert caught.value.waited_seconds == 0.25


def test_resolve_an_error() -> None:
    """A daemon that refuses a call costs a warning, not an error."""
    reply = wire.Error(id=1, code="denied", message="not yours")
    with pytest.warns(SidecardWarning, match="denied.*not yours"):
        assert resolve(reply) is NextStep.WITHOUT_DAEMON

    with pytest.raises(RequestRefused, match="not yours"):
        resolve(reply, on_unavailable="raise")


def test_resolve_of_an_invalid_reply() -> None:
    """A reply of a wrong type is an error."""
    with pytest.raises(ProtocolError, match="Ok"):
        resolve(wire.Ok(id=1))


def test_complete_carries_value_and_policy() -> None:
    """The message carries the packed value, its price and its time to live."""
    call = prepared(small, "p", ttl=60, tags=["a"], model="m", usage=lambda value: {"prompt_tokens": len(value)})
    assert completion.complete(call, LEASE, "abc") == wire.Complete(
        lease="l",
        value=Raw(msgspec.msgpack.encode("abc")),
        usage=wire.Usage(model="m", prompt_tokens=3),
        ttl_seconds=60.0,
        tags=("a",),
    )


def test_a_transcript_is_sent_if_the_operator_asks_for_it() -> None:
    """It is left out of a message without room for it."""
    asked = msgspec.structs.replace(LEASE, log=True)
    said = completion.complete(prepared(small, "p"), asked, "abc").spoken
    assert said is not None
    assert msgspec.msgpack.decode(said.prompt) == {"args": ["p"], "kwargs": {}}
    assert completion.complete(prepared(small, "p"), LEASE, "abc").spoken is None
    large = completion.complete(prepared(small, "p"), asked, b"x" * (completion.MAX_VALUE_BYTES - 2 * 1024 * 1024))
    assert large.spoken is None
    assert len(wire.pack(large)) < wire.MAX_FRAME_BYTES


def test_complete_refuses_what_cannot_be_shared() -> None:
    """The error names an object, and a text that no frame holds; the daemon gets the reason."""
    with pytest.raises(UnshareableValue, match="object"):
        completion.complete(prepared(), LEASE, object())

    with pytest.raises(UnshareableValue, match="too large") as caught:
        completion.complete(prepared(), LEASE, b"x" * completion.MAX_VALUE_BYTES)

    call = prepared(usage=lambda _: {"model": "m", "cost_dollars": 0.5})
    message = completion.refuse_to_share(call, "l", object(), caught.value)
    assert (message.kind, message.next) == ("ignored", False)
    assert (message.answered, message.usage) == (True, wire.Usage(model="m", cost_dollars=0.5))
    assert "too large" in message.message


def test_warn_unshareable_once_per_function() -> None:
    """A loop issues one warning."""
    error = UnshareableValue("no")

    def warned_once() -> None:
        """Have a name of its own."""

    with pytest.warns(SidecardWarning, match="warned_once: no"):
        completion.warn_unshareable(warned_once, error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        completion.warn_unshareable(warned_once, error)


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (None, None),
        ({}, wire.Usage(model="m")),
        ({"model": "n", "cost_dollars": 0.5}, wire.Usage(model="n", cost_dollars=0.5)),
        (wire.Usage(completion_tokens=3), wire.Usage(model="m", completion_tokens=3)),
    ],
)
def test_read_usage(said: Any, usage: wire.Usage | None) -> None:
    """A mapping or a `Usage`, with the policy's model by default."""
    assert read_usage(DEFAULTS.changed({"usage": lambda _value: said, "model": "m"}), "v") == usage


def test_read_usage_without_a_hook() -> None:
    """Without a hook there is no usage."""
    assert read_usage(DEFAULTS, "v") is None


@pytest.mark.parametrize("said", [{"prompt_tokens": -1}, 3, wire.Usage(cost_dollars=-1.0), {"model": "\udc80"}])
def test_read_usage_that_is_invalid_loses_the_price_alone(said: Any) -> None:
    """Invalid usage costs a warning and the price, never the value."""
    with pytest.warns(SidecardWarning, match="without its cost"):
        assert read_usage(DEFAULTS.changed({"usage": lambda _value: said}), "v") is None


def test_read_usage_whose_hook_raises() -> None:
    """A failing hook costs a warning and the price, never the value."""
    with pytest.warns(SidecardWarning, match="ZeroDivisionError"):
        assert read_usage(DEFAULTS.changed({"usage": lambda value: 1 / len(value)}), "") is None


def test_another_backend() -> None:
    """A call asks for another backend only after a transient failure, and only if one is left."""
    several = prepared({"local": small, "cloud": big})
    assert calls.another_backend(several, ["local"], "transient")
    assert not calls.another_backend(several, ["local"], "fatal")
    assert not calls.another_backend(several, ["local", "cloud"], "transient")
    assert not calls.another_backend(prepared(), ["default"], "transient")


def test_untried() -> None:
    """Backends in order of preference; a single function is called default."""
    several = prepared({"local": small, "cloud": big})
    assert several.untried([]) == [("local", small), ("cloud", big)]
    assert several.untried(["local"]) == [("cloud", big)]
    assert prepared().untried([]) == [("default", small)]


def test_untried_where_only_local_backends_may_be_called() -> None:
    """An unknown name may be remote; a function without a backend goes to the default one."""
    several = prepared({"cloud": big, "local": small, "default": small, "near": small}, sovereign=True)
    assert [name for name, _ in several.untried([])] == ["local", "default"]
    assert [name for name, _ in several.untried(["local"])] == ["default"]
    assert prepared(small, "p", sovereign=True).untried([]) == [("default", small)]
    assert prepared(small, "p", sovereign=True, backend="cloud").untried([]) == []


def test_another_without_daemon() -> None:
    """Like with a daemon, but without the backends that sovereignty forbids."""
    several = prepared({"local": small, "cloud": big})
    assert calls.another_without_daemon(several, ["local"], "transient")
    assert not calls.another_without_daemon(several, ["local"], "fatal")
    assert not calls.another_without_daemon(several, ["local", "cloud"], "transient")
    assert not calls.another_without_daemon(prepared(), ["cloud"], "transient")
    assert not calls.another_without_daemon(
        prepared({"local": small, "cloud": big}, sovereign=True), ["local"], "transient"
    )


def test_backends_without_daemon_where_sovereignty_leaves_none() -> None:
    """The error names the reason for each backend."""
    call = prepared({"cloud": big, "far": big}, sovereign=True)
    for refused in (
        lambda: calls.backends_without_daemon(call, ()),
        lambda: calls.check_fallback(call, "gone", lambda: "/s"),
    ):
        with pytest.raises(CallRejected, match="sovereign mode is on") as caught:
            refused()

        assert caught.value.backends == {"cloud": "sovereign", "far": "sovereign"}


def test_check_fallback() -> None:
    """Without a daemon a call is made, unless its policy forbids that."""
    calls.check_fallback(prepared(), "gone", lambda: "/s")
    with pytest.raises(CallRejected, match="not_cached"):
        calls.check_fallback(prepared(small, "p", mode="only_if_cached"), "gone", lambda: "/s")

    with pytest.raises(DaemonUnavailable, match="/s: gone"):
        calls.check_fallback(prepared(small, "p", on_unavailable="raise"), "gone", lambda: "/s")


def test_remaining_seconds() -> None:
    """The rest of a wait is never negative, and None without a limit."""
    assert calls.remaining_seconds(prepared(), 5) is None
    assert calls.remaining_seconds(prepared(small, "p", wait=3), 1) == 2
    assert calls.remaining_seconds(prepared(small, "p", wait=3), 5) == 0


@pytest.mark.parametrize(("reason", "stale"), [("budget", True), ("breaker_open", True), ("busy", False)])
def test_resolve_a_rejection_with_a_stale_answer(reason: str, stale: bool) -> None:
    """A rejection by policy is covered by the stale answer; a full daemon counts as absent, and the caller makes its call."""
    reply = wire.Rejected(id=1, reason=reason, stale_value="old", stale_age_seconds=9.0)  # type: ignore[arg-type]  # a parameter's str
    resolved = resolve(reply)
    if stale:
        assert (resolved.value, resolved.source) == ("old", "stale")
    else:
        assert resolved is NextStep.WITHOUT_DAEMON
