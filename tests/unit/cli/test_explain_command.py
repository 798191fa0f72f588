"""What ``sidecard explain`` reads, and how it writes what it has found."""

import json
from typing import Any

import pytest

from sidecard.cli.asking import UsageError
from sidecard.cli.explain import Answer
from sidecard.cli.explain_requests import Flags, Question, header_of, read
from sidecard.cli.explain_views import comparison_fields, comparison_text, fields_of, share, text_of
from sidecard.cli.tables import seconds
from sidecard.core.operations.policies import policy_of
from sidecard.core.settings import Cacheability, EngineSettings, TaskSettings
from sidecard_client.call import call as calls
from sidecard_client.call.options import Options
from sidecard_client.http.request import parse_request
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol.wire import EntryState, Explained, PolicyValue, Usage

CHAT = "https://api.openai.com/v1/chat/completions"
BODY = {"model": "gpt", "messages": [{"role": "user", "content": "Why  not?"}], "user": "u"}
SETTINGS = EngineSettings(tasks={"rag": TaskSettings(ttl_seconds=60.0, normalize=("nfc", "space"))})


def question(fields: object, **flags: Any) -> Question:
    """Read a request."""
    return read(json.dumps(fields).encode(), "file", Flags(**flags))


def answered(
    fields: object, settings: EngineSettings = SETTINGS, now: Explained | None = None, **flags: Any
) -> Answer:  # fmt: skip
    """Answer a request as without a daemon, or with what one says."""
    asked = question(fields, **flags)
    policy = policy_of(settings, asked.options.task, {"cache.ttl_seconds": "default"})
    said = {name: PolicyValue(value, origin, origin) for name, (value, origin) in asked.policy.items()}
    explanation = asked.explained(policy["normalize"].value)
    return Answer(asked, explanation, policy | said, now, "/s.sock", "none is there")


def generate(prompt: str, *, temperature: float = 1.0) -> str:
    """Stand for a model."""
    return f"{prompt}{temperature}"


# What is read ------------------------------------------------------------------------------------------------------


def test_a_call_has_the_key_that_the_client_makes() -> None:
    """Of the same function, arguments and policy."""
    options = Options().changed({"task": "rag", "model": "m", "ignore": ["trace"]})
    call = calls.prepare(options, generate, ("q",), {"temperature": 0, "trace": "x"})
    asked = question(
        {
            "name": f"{__name__}.generate",
            "args": ["q"],
            "kwargs": {"temperature": 0, "trace": "x"},
            "task": "rag",
            "model": "m",
            "ignore": ["trace"],
        }
    )
    assert asked.explained(()).key == call.key
    assert asked.deterministic
    streamed = calls.prepare(Options(), generate, ("q",), {}, stream=True)
    form = {"name": f"{__name__}.generate", "args": ["q"], "stream": True}
    assert question(form).explained(()).key == streamed.key


@pytest.mark.parametrize("whole", [True, False])
def test_an_http_request_has_the_key_that_the_transport_makes(whole: bool) -> None:
    """As a body with an URL, or with both in one object."""
    asked = parse_request("POST", CHAT, [("Authorization", "Bearer x"), ("X-Org", "o")], json.dumps(BODY).encode())
    assert asked is not None
    headers = {"Authorization": "Bearer x", "X-Org": "o"}
    said = (
        question({"url": CHAT, "headers": headers, "body": BODY}, task="rag")
        if whole
        else question(BODY, url=CHAT, headers=tuple(headers.items()), task="rag")
    )
    assert said.explained(()).key == fingerprint("rag", "gpt", "http openai_chat", (), asked.parts)
    assert said.policy["backends"][0] == [asked.backend]
    assert "Bearer" not in str(said.explained(()))


def test_credentials_count_unless_they_are_shared() -> None:
    """As the transport's keyword has it."""
    requests = [{"url": CHAT, "headers": {"x-api-key": key}, "body": BODY} for key in ("a", "b")]
    assert len({question(one).explained(()).key for one in requests}) == 2
    assert len({question(one, share_credentials=True).explained(()).key for one in requests}) == 1


def test_the_apps_own_headers_are_policy() -> None:
    """Task, time to live, and that nothing is to be shared."""
    headers = {"x-sidecard-task": "rag", "x-sidecard-ttl": "5", "x-sidecard-cache": "off"}
    asked = question({"url": CHAT, "headers": headers, "body": BODY})
    assert asked.options.task == "rag"
    assert asked.policy["ttl_seconds"] == (5.0, "call: x-sidecard-ttl")
    assert "off" in asked.shares_nothing


def test_flags_win_over_what_is_in_the_request() -> None:
    """Task, namespace, normal form."""
    form = {"name": "f", "task": "a", "namespace": "b", "normalize": ["case"]}
    assert question(form).options.task == "a"
    asked = question(form, task="rag", namespace="team", normalize="space,nfc")
    assert (asked.options.task, asked.options.namespace, asked.options.normalize) == ("rag", "team", ("nfc", "space"))
    assert question(form, normalize="task").by_task
    assert question(form, normalize="").options.normalize == ()


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (b"{", {}, "file: "),
        (b"[1]", {}, "JSON object"),
        (b"{}", {}, "--url https"),
        (b'{"messages": []}', {}, "--url https"),
        (b'{"name": 3}', {}, r"\$.name"),
        (b'{"name": "f", "ttl": -1}', {}, "ttl= must be 0 to"),
        (b'{"name": "f", "tll": 1}', {}, "tll"),
        (b'{"name": "f", "normalize": ["x"]}', {}, "normalize="),
        (b'{"name": "f"}', {"normalize": "nfkc"}, "normalize="),
        (b'{"url": "http://x/other", "body": {}}', {}, "is not shared"),
        (b'{"url": "http://x/v1/chat/completions", "body": {}, "method": "GET"}', {}, "is not shared"),
        (b'{"a": 1}', {"url": "http://x/y"}, "/chat/completions"),
        (b"\xff", {}, "file: "),
    ],
)
def test_what_is_no_request_is_a_mistake_in_usage(text: bytes, flags: dict[str, Any], words: str) -> None:
    """That says what to write instead."""
    with pytest.raises(UsageError, match=words):
        read(text, "file", Flags(**flags))


def test_headers_are_written_as_in_http() -> None:
    """Name and value."""
    assert header_of("X-Org:  o:p ") == ("X-Org", "o:p")
    with pytest.raises(UsageError, match="NAME: VALUE"):
        header_of("X-Org")


# What is written ---------------------------------------------------------------------------------------------------


def test_one_request_is_told_with_key_form_and_policy() -> None:
    """Each value with the setting that it is from; what the request says itself wins."""
    text = text_of(answered({"name": "app.f", "args": ["q"], "task": "rag", "ttl": 5}))
    lines = text.splitlines()
    assert lines[0].startswith("key        k1-")
    assert "name       app.f" in lines
    assert [line.split() for line in lines if line.startswith("ttl_seconds")] == [["ttl_seconds", "5", "call:", "ttl"]]
    assert "cache.stale_seconds (default)" in text
    assert "Its answer may be stored." in lines
    assert "No daemon was asked: none is there" in lines
    assert 'normal form nfc, space, for clients with normalize="task"' in text


@pytest.mark.parametrize(
    ("cache", "fields", "stored", "why"),
    [
        ("always", {}, True, ""),
        ("never", {}, False, "nothing of its task"),
        ("deterministic", {}, False, "neither temperature 0 nor a seed"),
        ("deterministic", {"kwargs": {"temperature": 0}}, True, ""),
        ("deterministic", {"deterministic": True}, True, ""),
        ("always", {"ttl": 0}, False, "time to live is 0"),
        ("always", {"ttl": 0, "stale": 5}, True, ""),
    ],
)
def test_whether_an_answer_is_stored_is_told(
    cache: Cacheability, fields: dict[str, Any], stored: bool, why: str
) -> None:  # fmt: skip
    """And why not."""
    settings = EngineSettings(tasks={"rag": TaskSettings(cache=cache)})
    told = answered({"name": "f", "task": "rag", **fields}, settings)
    assert told.stored[0] is stored
    assert why in told.stored[1]
    assert ("Its answer may be stored." in text_of(told)) is stored


def test_what_the_daemon_has_is_told() -> None:
    """An entry with what is left of it, a flight, a failure; or nothing."""
    usage = Usage(cost_dollars=0.25)
    entry = EntryState(30.0, 70.0, 0.0, False, 1024, 2.0, "cloud", "rag", ("t", "u"), usage)
    now = Explained(1, "rag", "1000:default", {}, entry, 3, "bad prompt")
    text = text_of(answered({"name": "f"}, now=now))
    assert "namespace  default (1000:default)" in text
    for words in (
        f"{seconds(30.0)} old, served for {seconds(70.0)} more",
        "$0.25",
        "on cloud",
        "t, u",
        "3 wait",
        "bad prompt",
    ):
        assert words in text, words

    stale = EntryState(30.0, 0.0, 9.0, True, 1, 2.0, "cloud", "", (), Usage())
    assert f"as stale for {seconds(9.0)} more" in text_of(
        answered({"name": "f"}, now=Explained(1, "rag", "s", {}, stale))
    )
    shared = EntryState(30.0, 0.0, 0.0, False, 1, 2.0, "cloud", "", (), Usage())
    assert "sharing window" in text_of(answered({"name": "f"}, now=Explained(1, "rag", "s", {}, shared)))
    assert "Nothing is stored" in text_of(answered({"name": "f"}, now=Explained(1, "rag", "s", {})))


def test_an_entry_of_a_task_that_stores_nothing_is_told_as_served_to_nobody() -> None:
    """It was stored before that was so, or by another task."""
    settings = EngineSettings(tasks={"rag": TaskSettings(cache="never")})
    now = Explained(1, "rag", "s", {}, EntryState(30.0, 70.0, 0.0, False, 1, 2.0, "cloud", "rag", (), Usage()))
    assert "served none of that" in text_of(answered({"name": "f", "task": "rag"}, settings, now))
    assert "served none of that" not in text_of(answered({"name": "f"}, settings, now))


def test_programs_are_told_the_same() -> None:
    """In fields of their own."""
    told = answered({"name": "f", "args": ["q  r"], "task": "rag", "normalize": "task"})
    fields = fields_of(told)
    assert fields["key"] == told.explanation.key
    assert fields["canonical"]["args"] == ["q r"]
    assert fields["normalize"] == ["nfc", "space"]
    assert fields["policy"]["ttl_seconds"]["setting"] == "tasks.rag.ttl_seconds"
    assert (fields["stored"], fields["daemon"], fields["entry"]) == (True, None, None)
    json.dumps(fields)


def test_two_requests_are_compared() -> None:
    """What makes their keys differ, and what does not although it looks like it."""
    one = answered({"name": "f", "args": ["a  b", "x"]}, normalize="space")
    other = answered({"name": "f", "args": ["a b", "y"]}, normalize="space")
    differences = one.explanation.differences(other.explanation)
    assert not share(one, other)
    assert comparison_text(one, other, differences).splitlines()[2:] == [
        "They do not share:",
        "  args[1]: 'x' / 'y'",
        "  args[0]: 'a  b' / 'a b' (the same in normal form)",
    ]
    told = comparison_fields(one, other, differences)
    assert told["share"] is False
    assert told["differences"][0] == {"path": "args[1]", "same_in_normal_form": False, "one": "x", "other": "y"}
    json.dumps(told)


def test_two_requests_that_share_are_told_so() -> None:
    """With what differs as they are written, if anything does."""
    one, other = (answered({"name": "f", "args": [text]}, normalize="space") for text in ("a  b", "a b"))
    text = comparison_text(one, other, one.explanation.differences(other.explanation))
    assert "They share: their keys are one." in text
    assert "nothing that goes into their keys differs" in comparison_text(one, one, [])
    assert share(one, other)


def test_what_shares_nothing_shares_with_nobody() -> None:
    """Be the keys one."""
    off = {"url": CHAT, "headers": {"x-sidecard-cache": "off"}, "body": BODY}
    one, other = answered(off), answered({"url": CHAT, "body": BODY})
    assert one.explanation.key == other.explanation.key
    assert not share(one, other)
    assert "one: its header x-sidecard-cache says off" in comparison_text(one, other, [])
    assert "key        none" in text_of(one)


def test_a_long_list_of_differences_is_cut_for_people() -> None:
    """Programs get all."""
    one, other = (answered({"name": "f", "args": [sign] * 80}) for sign in "xy")
    differences = one.explanation.differences(other.explanation)
    assert comparison_text(one, other, differences).endswith("  and 30 more")
    assert len(comparison_fields(one, other, differences)["differences"]) == 80
