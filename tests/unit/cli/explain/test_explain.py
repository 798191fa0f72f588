"""``sidecard explain``: parsed requests, and the shown explanations."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import httpx2
import pytest
from msgspec import structs

from sidecard.cli.exit_codes import UsageError
from sidecard.cli.explain import comparison
from sidecard.cli.explain.comparison import share
from sidecard.cli.explain.requests import ExplainedRequest, Flags, Question, parse_header, read_question
from sidecard.cli.explain.view import fields_of, text_of
from sidecard.cli.text.numbers import seconds
from sidecard.core.operations.policies import policy_of
from sidecard.core.settings import Cacheability, EngineSettings, TaskSettings
from sidecard_client.call import call as calls
from sidecard_client.call.options import Options
from sidecard_client.http import SidecardTransport
from sidecard_client.http.identity import ACCEPTED
from sidecard_client.http.request import parse_request
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.naming import name_of
from sidecard_client.keys.normal_form import BY_TASK
from sidecard_client.keys.prefixes.recipe import prefixes_of_texts
from sidecard_client.protocol.wire import BackendPrefixes, EntryState, PolicyValue, Usage
from sidecard_client.protocol.wire import Explained as State
from sidecard_client.testing import FakeClient

CHAT = "https://api.openai.com/v1/chat/completions"
BODY = {"model": "gpt", "messages": [{"role": "user", "content": "Why  not?"}], "user": "u"}
SETTINGS = EngineSettings(tasks={"rag": TaskSettings(ttl_seconds=60.0, normalize=("nfc", "space"))})


def question(fields: object, **flags: Any) -> Question:
    """Parse a request."""
    return read_question(json.dumps(fields).encode(), "file", Flags(**flags))


def explained(
    fields: object, settings: EngineSettings = SETTINGS, now: State | None = None, **flags: Any
) -> ExplainedRequest:  # fmt: skip
    """Explain a request without a daemon, or with a daemon's state."""
    asked = question(fields, **flags)
    policy = policy_of(settings, asked.options.task, {"cache.ttl_seconds": "default"})
    said = {name: PolicyValue(value, origin, origin) for name, (value, origin) in asked.policy.items()}
    explanation = asked.explain(policy["normalize"].value)
    return ExplainedRequest(asked, explanation, policy | said, now, "/s.sock", "no daemon")


def generate(prompt: str, *, temperature: float = 1.0) -> str:
    """Simulate a model."""
    return f"{prompt}{temperature}"


# Parsing -------------------------------------------------------------------------------------------------------


def test_a_call_has_the_clients_key() -> None:
    """An explained call has the key that the client computes."""
    options = Options().changed({"task": "rag", "model": "m", "ignore": ["trace"]})
    call = calls.prepare(options, generate, ("q",), {"temperature": 0, "trace": "x"})
    asked = question(
        {
            "name": name_of(generate),
            "args": ["q"],
            "kwargs": {"temperature": 0, "trace": "x"},
            "task": "rag",
            "model": "m",
            "ignore": ["trace"],
        }
    )
    assert asked.explain(()).key == call.key
    assert asked.deterministic
    streamed = calls.prepare(Options(), generate, ("q",), {}, stream=True)
    form = {"name": name_of(generate), "args": ["q"], "kwargs": {"temperature": 1.0}, "stream": True}
    assert question(form).explain(()).key == streamed.key
    sampled = calls.prepare(Options(), generate, ("q",), {"temperature": 0, "sample": 3})
    form = {"name": name_of(generate), "args": ["q"], "kwargs": {"temperature": 0}, "sample": 3}
    assert question(form).explain(()).key == sampled.key
    assert "sample     3" in text_of(explained(form)).splitlines()


@pytest.mark.parametrize("whole", [True, False])
def test_an_http_request_has_the_transports_key(whole: bool) -> None:
    """Both forms of an HTTP request give the key that the transport computes."""
    asked = parse_request("POST", CHAT, [("Authorization", "Bearer x"), ("X-Org", "o")], json.dumps(BODY).encode())
    assert asked is not None
    headers = {"Authorization": "Bearer x", "X-Org": "o"}
    said = (
        question({"url": CHAT, "headers": headers, "body": BODY}, task="rag")
        if whole
        else question(BODY, url=CHAT, headers=tuple(headers.items()), task="rag")
    )
    assert said.explain(()).key == fingerprint("rag", "gpt", "http openai_chat", (), asked.parts)
    assert said.policy["backends"][0] == [asked.backend]
    assert "Bearer" not in str(said.explain(()))


def test_a_text_to_embed_has_the_transports_key() -> None:
    """The key of one text, whether it is asked for alone or in a list."""
    url, sidecard = "http://h/v1/embeddings", FakeClient()
    answer = {"data": [{"index": 0, "embedding": [1.5]}, {"index": 1, "embedding": [2.5]}]}
    upstream = httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer))
    with httpx2.Client(transport=SidecardTransport(upstream, sidecard), headers={"user-agent": ""}) as http:
        http.post(url, json={"model": "m", "input": ["a", "b"]})

    for given in ("a", ["a"]):
        asked = question({"url": url, "body": {"model": "m", "input": given}})
        assert asked.explain(()).key == sidecard.asked[0].key

    with pytest.raises(UsageError, match="embeddings of 2 texts, each of which has a key of its own"):
        question({"url": url, "body": {"model": "m", "input": ["a", "b"]}})


def test_credentials_separate_keys_unless_shared() -> None:
    """The flag has the effect of the transport's keyword."""
    requests = [{"url": CHAT, "headers": {"x-api-key": key}, "body": BODY} for key in ("a", "b")]
    assert len({question(one).explain(()).key for one in requests}) == 2
    assert len({question(one, share_credentials=True).explain(()).key for one in requests}) == 1


def token_of(subject: str, number: int) -> str:
    """Return a signed token of a principal, unlike the other ones."""
    claims = {"iss": "https://login.example", "sub": subject, "exp": 2_000_000_000 + number, "jti": str(number)}
    parts = ({"alg": "RS256"}, claims, number)
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def test_tokens_of_one_principal_have_one_key() -> None:
    """Two tokens of one principal have one key, as after the upstream accepted them; this process remembers none."""
    before = len(ACCEPTED)
    keys = [
        question({"url": CHAT, "headers": {"authorization": f"Bearer {token}"}, "body": BODY}).explain(()).key
        for token in (token_of("a", 1), token_of("a", 2), token_of("b", 3))
    ]
    assert (keys[0] == keys[1], keys[0] == keys[2]) == (True, False)
    assert len(ACCEPTED) == before


def test_identity_replaces_credentials() -> None:
    """``--identity`` has the effect of the transport's keyword."""
    requests = [{"url": CHAT, "headers": {"x-api-key": key}, "body": BODY} for key in ("a", "b")]
    assert len({question(one, identity="app").explain(()).key for one in requests}) == 1


def test_text_shows_what_transports_find_in_an_http_request() -> None:
    """The text names API, identity, what is outside the key, and whether it passes; no value and no credential."""
    body = {
        "model": "claude",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "why", "cache_control": {"type": "e"}}]}],
    }
    headers = {"X-Api-Key": "secret", "User-Agent": "app/1", "anthropic-version": "2023-06-01", "X-Request-Id": "7"}
    result = explained({"url": "https://api.anthropic.com/v1/messages", "headers": headers, "body": body})
    lines = text_of(result).splitlines()
    assert "API        anthropic_messages" in lines
    assert "identity   the hash of its credentials (x-api-key)" in lines
    assert "outside    messages[0].content[0].cache_control, header user-agent, header x-request-id" in lines, lines
    assert "passes     no" in lines
    fields = fields_of(result)["http"]
    assert fields["outside_headers"] == ("user-agent", "x-request-id")
    assert "secret" not in json.dumps(fields) + "".join(lines)


@pytest.mark.parametrize(("control", "passes"), [("", "state"), ("on", None), ("only", None), ("refresh", "state")])
def test_request_with_side_effects_passes(control: str, passes: str | None) -> None:
    """A request with side effects passes unless its header asks for sharing."""
    headers = {"x-sidecard-cache": control} if control else {}
    body = {"model": "gpt", "input": "go on", "conversation": "conv_1"}
    result = explained({"url": "https://api.openai.com/v1/responses", "headers": headers, "body": body})
    assert result.question.http is not None
    assert result.question.http.passes == passes
    assert (f"passes     {passes or 'no'}" in text_of(result).splitlines()) is True
    assert ("changes what its server keeps" in result.stored[1]) is (passes is not None)
    assert share(result, result) is (passes is None)


def test_comparison_of_contexts_says_that_refusals_are_not_shared() -> None:
    """Requests with equal keys and different contexts share answers, but not refusals."""
    one, other, same = (
        explained({"url": CHAT, "headers": {"user-agent": agent}, "body": BODY}) for agent in ("a", "b", "b")
    )
    assert "share answers, but not refusals" in comparison.text_of(one, other)
    assert comparison.fields_of(one, other)["share_refusals"] is False
    assert comparison.fields_of(other, same)["share_refusals"] is True


def test_texts_show_twelve_digits_of_an_identity() -> None:
    """A weak password could be guessed from its whole hash."""
    one, other = (explained({"url": CHAT, "headers": {"x-api-key": key}, "body": BODY}) for key in ("a", "b"))
    identities = [result.explanation.parts["kwargs"]["identity"] for result in (one, other)]
    assert f'"identity": "{identities[0][:12]}..."' in text_of(one)
    difference = f"  kwargs.identity: '{identities[0][:12]}...' / '{identities[1][:12]}...'"
    assert comparison.text_of(one, other).splitlines()[2:] == ["They do not share:", difference]
    assert identities[0][:13] not in text_of(one)


def test_identity_argument_of_a_function_is_shown_whole() -> None:
    """Only the identity of an HTTP request is a hash of credentials."""
    one, other = (explained({"name": "f", "kwargs": {"identity": sign * 20}}) for sign in "xy")
    assert "x" * 20 in text_of(one)
    assert f"kwargs.identity: '{'x' * 20}' / '{'y' * 20}'" in comparison.text_of(one, other)


@pytest.mark.parametrize("url", ["https://me:pass-word@h/other", "https://h/other?key=pass-word", "https://[pass-word"])
def test_error_about_an_unknown_api_shows_no_credential(url: str) -> None:
    """User, password and query of the URL are left out, even if it is invalid."""
    with pytest.raises(UsageError, match="is not shared") as caught:
        question({"url": url, "body": {}})

    assert "pass-word" not in str(caught.value)


def test_sidecard_headers_set_the_policy() -> None:
    """The headers set the task, the time to live, and whether to share."""
    headers = {"x-sidecard-task": "rag", "x-sidecard-ttl": "5", "x-sidecard-cache": "off"}
    asked = question({"url": CHAT, "headers": headers, "body": BODY})
    assert asked.options.task == "rag"
    assert asked.policy["ttl_seconds"] == (5.0, "call: x-sidecard-ttl")
    assert "off" in asked.unshared_because


def test_flags_override_the_request() -> None:
    """Task, namespace and normal form come from the flags."""
    form = {"name": "f", "task": "a", "namespace": "b", "normalize": ["case"]}
    assert question(form).options.task == "a"
    asked = question(form, task="rag", namespace="team", normalize="space,nfc")
    assert (asked.options.task, asked.options.namespace, asked.options.normalize) == ("rag", "team", ("nfc", "space"))
    assert question(form, normalize="task").options.normalize == BY_TASK
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
def test_an_invalid_request_is_a_usage_error(text: bytes, flags: dict[str, Any], words: str) -> None:
    """The error says what to write."""
    with pytest.raises(UsageError, match=words):
        read_question(text, "file", Flags(**flags))


def test_headers_are_parsed_as_in_http() -> None:
    """A header has a name and a value."""
    assert parse_header("X-Org:  o:p ") == ("X-Org", "o:p")
    with pytest.raises(UsageError, match="NAME: VALUE"):
        parse_header("X-Org")


# Output ------------------------------------------------------------------------------------------------------


def test_text_shows_key_and_policy() -> None:
    """Each policy value has its source; values of the request take precedence."""
    text = text_of(explained({"name": "app.f", "args": ["q"], "task": "rag", "ttl": 5}))
    lines = text.splitlines()
    assert lines[0].startswith("key        k2-")
    assert "name       app.f" in lines
    assert [line.split() for line in lines if line.startswith("ttl_seconds")] == [["ttl_seconds", "5", "call:", "ttl"]]
    assert "cache.stale_seconds (default)" in text
    assert "Its answer may be stored." in lines
    assert "No daemon was queried: no daemon" in lines
    assert 'normal form nfc, space, for clients with normalize="task"' in text


@pytest.mark.parametrize(
    ("cache", "fields", "stored", "why"),
    [
        ("always", {}, True, ""),
        ("never", {}, False, "its task stores no answers"),
        ("deterministic", {}, False, "neither temperature 0 nor a seed"),
        ("deterministic", {"kwargs": {"temperature": 0}}, True, ""),
        ("deterministic", {"deterministic": True}, True, ""),
        ("always", {"ttl": 0}, False, "its own time to live is 0; it is shared while the call is in progress"),
        ("always", {"ttl": 0, "stale": 5}, True, ""),
    ],
)
def test_text_says_whether_the_answer_is_stored(
    cache: Cacheability, fields: dict[str, Any], stored: bool, why: str
) -> None:  # fmt: skip
    """If it is not stored, the text says why."""
    settings = EngineSettings(tasks={"rag": TaskSettings(cache=cache)})
    result = explained({"name": "f", "task": "rag", **fields}, settings)
    assert result.stored[0] is stored
    assert why in result.stored[1]
    assert ("Its answer may be stored." in text_of(result)) is stored


def test_text_shows_the_daemons_state() -> None:
    """The state is an entry, a call in progress, a remembered failure, or nothing."""
    usage = Usage(cost_dollars=0.25)
    entry = EntryState(30.0, 70.0, 0.0, False, 1024, 2.0, "cloud", "rag", ("t", "u"), usage)
    now = State(1, "rag", "1000:default", {}, entry, 3, "bad prompt")
    text = text_of(explained({"name": "f"}, now=now))
    assert "namespace  default (1000:default)" in text
    for words in (
        f"{seconds(30.0)} old, served for {seconds(70.0)} more",
        "$0.25",
        "on cloud",
        "t, u",
        "waiters: 3",
        "bad prompt",
    ):
        assert words in text, words

    stale = EntryState(30.0, 0.0, 9.0, True, 1, 2.0, "cloud", "", (), Usage())
    assert f"as stale for {seconds(9.0)} more" in text_of(explained({"name": "f"}, now=State(1, "rag", "s", {}, stale)))
    shared = EntryState(30.0, 0.0, 0.0, False, 1, 2.0, "cloud", "", (), Usage())
    assert "sharing window" in text_of(explained({"name": "f"}, now=State(1, "rag", "s", {}, shared)))
    assert "No answer is stored" in text_of(explained({"name": "f"}, now=State(1, "rag", "s", {})))


def test_an_entry_beyond_the_calls_own_limit_is_marked() -> None:
    """The lesser of ``ttl`` and ``max_age`` limits the age of an answer."""
    now = State(1, "general", "s", {}, EntryState(30.0, 70.0, 0.0, False, 1, 2.0, "cloud", "rag", (), Usage()))
    words = f"too old for this call, which takes answers of less than {seconds(20.0)}"
    for limits, marked in (
        ({"ttl": 20}, True),
        ({"max_age": 20, "ttl": 90}, True),
        ({"max_age": 31}, False),
        ({}, False),
    ):
        assert (words in text_of(explained({"name": "f", **limits}, now=now))) is marked


def test_an_unused_entry_of_a_task_that_stores_nothing_is_marked() -> None:
    """The entry is older than the setting, or was stored by another task."""
    settings = EngineSettings(tasks={"rag": TaskSettings(cache="never")})
    now = State(1, "rag", "s", {}, EntryState(30.0, 70.0, 0.0, False, 1, 2.0, "cloud", "rag", (), Usage()))
    assert "does not use this entry" in text_of(explained({"name": "f", "task": "rag"}, settings, now))
    assert "does not use this entry" not in text_of(explained({"name": "f"}, settings, now))


def test_fields_contain_key_and_policy() -> None:
    """JSON has the same facts as the text."""
    result = explained({"name": "f", "args": ["q  r"], "task": "rag", "normalize": "task"})
    fields = fields_of(result)
    assert fields["key"] == result.explanation.key
    assert fields["canonical"]["args"] == ["q r"]
    assert fields["normalize"] == ["nfc", "space"]
    assert fields["policy"]["ttl_seconds"]["setting"] == "tasks.rag.ttl_seconds"
    assert (fields["stored"], fields["daemon"], fields["entry"]) == (True, None, None)
    json.dumps(fields)


def test_comparison_shows_differences() -> None:
    """Differences that the normal form removes are marked."""
    one = explained({"name": "f", "args": ["a  b", "x"]}, normalize="space")
    other = explained({"name": "f", "args": ["a b", "y"]}, normalize="space")
    assert not share(one, other)
    assert comparison.text_of(one, other).splitlines()[2:] == [
        "They do not share:",
        "  args[1]: 'x' / 'y'",
        "  args[0]: 'a  b' / 'a b' (the same in normal form)",
    ]
    result = comparison.fields_of(one, other)
    assert result["share"] is False
    assert result["differences"][0] == {"path": "args[1]", "same_in_normal_form": False, "one": "x", "other": "y"}
    json.dumps(result)


def test_comparison_of_sharing_requests_says_so() -> None:
    """Sharing requests may still be written differently."""
    one, other = (explained({"name": "f", "args": [text]}, normalize="space") for text in ("a  b", "a b"))
    text = comparison.text_of(one, other)
    assert "They share: their keys are equal." in text
    assert "nothing that enters their keys differs" in comparison.text_of(one, one)
    assert share(one, other)


def test_an_unshared_request_does_not_share_despite_equal_keys() -> None:
    """Equal keys do not suffice."""
    off = {"url": CHAT, "headers": {"x-sidecard-cache": "off"}, "body": BODY}
    one, other = explained(off), explained({"url": CHAT, "body": BODY})
    assert one.explanation.key == other.explanation.key
    assert not share(one, other)
    assert "one: its header x-sidecard-cache is off" in comparison.text_of(one, other)
    assert "key        none" in text_of(one)


def test_comparison_text_is_limited() -> None:
    """JSON has all differences."""
    one, other = (explained({"name": "f", "args": [sign] * 80}) for sign in "xy")
    assert comparison.text_of(one, other).endswith("  and 30 more")
    assert len(comparison.fields_of(one, other)["differences"]) == 80


# Prefixes of prompts ------------------------------------------------------------------------------------------

MANUAL = "Answer from the manual. " * 40
CHAT_BODY = {
    "model": "gpt",
    "messages": [{"role": "system", "content": MANUAL}, {"role": "user", "content": "Why?"}],
}


def test_a_request_shows_its_prefixes_and_where_they_are_warm() -> None:
    """One row for each, with its length, and its state on each backend that schedules by them."""
    asked = question({"url": CHAT, "body": CHAT_BODY})
    digests, lengths = asked.prefixes
    assert len(digests) == 2
    known = {
        "cloud": BackendPrefixes("provider", 1024, ("cold", "cold")),
        "local": BackendPrefixes("slots", 64, ("warm", "processing")),
    }
    now = structs.replace(State(1, "general", "1000:default", {}), prefixes=known)

    shown = explained({"url": CHAT, "body": CHAT_BODY}, now=now)
    rows = [line.split("  ") for line in text_of(shown).splitlines()[-3:]]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["prefix", "tokens", "cloud", "local"],
        [digests[0][:12], f"~{lengths[0] // 4}", "too short", "warm"],
        [digests[1][:12], f"~{lengths[1] // 4}", "too short", "processing"],
    ]
    assert fields_of(shown)["prefixes"][0] == {
        "prefix": digests[0],
        "bytes": lengths[0],
        "tokens": lengths[0] // 4,
        "states": {"cloud": "cold", "local": "warm"},
    }


def test_a_call_shows_the_prefixes_of_its_keyword() -> None:
    """As the client would send them; without the keyword it has none."""
    form = {"name": "app.ask", "args": ["Why?"], "prefix": [MANUAL, "Why?"], "model": "small"}
    assert question(form).prefixes == prefixes_of_texts("small", [MANUAL, "Why?"])
    assert fields_of(explained({"name": "app.ask"}))["prefixes"] == []
    assert "prefix" not in text_of(explained({"name": "app.ask"}))
    now = State(1, "general", "1000:default", {})
    assert text_of(explained(form, now=now)).endswith("scheduled by these prefixes.")


def test_two_requests_show_the_length_of_their_common_prefix() -> None:
    """Whether or not they share an answer."""
    other = {**CHAT_BODY, "messages": [CHAT_BODY["messages"][0], {"role": "user", "content": "Who?"}]}
    one, two = explained({"url": CHAT, "body": CHAT_BODY}), explained({"url": CHAT, "body": other})
    tokens = question({"url": CHAT, "body": CHAT_BODY}).prefixes.lengths[0] // 4
    assert comparison.text_of(one, two).endswith(f"Their prompts share a prefix of about {tokens} tokens.")
    assert comparison.fields_of(one, two)["common_prefix_tokens"] == tokens
    unlike = explained({"url": CHAT, "body": {**CHAT_BODY, "model": "other"}})
    assert comparison.fields_of(one, unlike)["common_prefix_tokens"] == 0
