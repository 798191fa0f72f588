"""Answers with embeddings are taken apart and put together as their server wrote them."""

import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard_client.http.embeddings import (
    EmbeddedText,
    UnusableAnswer,
    answer_of_texts,
    embedding_request,
    texts_of_answer,
    usage_of,
)
from sidecard_client.http.family import EmbeddingLayout
from sidecard_client.http.recognition import families
from sidecard_client.protocol.wire import Usage

OPENAI: Final = families()["openai_embeddings"].layout or EmbeddingLayout("", frozenset())
OLLAMA: Final = families()["ollama_embed"].layout


def answer(*vectors: str, tokens: int = 0, **more: Any) -> bytes:
    """Return OpenAI's answer with these vectors, as they are written."""
    items = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{vector}}}' for index, vector in enumerate(vectors)
    )
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens} | more)
    return f'{{"object":"list","data":[{items}],"model":"m","usage":{usage}}}'.encode()


@pytest.mark.parametrize(
    ("given_input", "values"),
    [
        ('"a"', ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ("[1, 2]", [[1, 2]]),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
        ('["\\u0061"]', ["a"]),
        ('[""]', [""]),
    ],
)
def test_forms_of_input(given_input: str, values: list[Any]) -> None:
    """One text, texts, one list of token ids, lists of them."""
    request = embedding_request(OPENAI, f'{{"input": {given_input}, "model": "m"}}'.encode())
    assert request is not None
    assert [text.value for text in request.inputs] == values


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": []}', b'{"input": [[]]}', b'{"input": ["a", 1]}', b'{"input": [true]}', b'{"input": null}',
        b'{"input": {"a": 1}}', b'{"input": [["a"]]}', b'{"input": [1.5]}', b"{}", b"[]", b"x", b'{"input": "\xff"}',
    ],
)  # fmt: skip
def test_other_forms_are_no_list_of_texts(body: bytes) -> None:
    """They are shared as whole requests."""
    assert embedding_request(OPENAI, body) is None


def test_only_known_apis_are_taken_apart() -> None:
    """Ollama's older interface has a prompt, and Ollama takes no token ids."""
    assert embedding_request(OLLAMA, b'{"prompt": "a", "model": "m"}') is None
    assert embedding_request(OLLAMA, b'{"input": [1], "model": "m"}') is None
    assert embedding_request(families()["openai_chat"].layout, b'{"input": "a"}') is None


def test_the_request_for_some_texts_is_otherwise_the_same() -> None:
    """Numbers keep their digits, and fields their order."""
    request = embedding_request(OPENAI, b'{"model": "m", "input": ["a", "b"], "x": {"y": 1.50}}')
    assert request is not None
    assert request.body_for(['"b"']) == b'{"model":"m","input":["b"],"x":{"y": 1.50}}'


@pytest.mark.parametrize("vector", ["[0.10000000149011612, 1e-7, -0.0]", '"zczMPQ=="', "[1, 2.0]"])
def test_vectors_keep_their_text(vector: str) -> None:
    """Of floats and of base64."""
    (text,) = texts_of_answer(OPENAI, answer(vector), ['"a"'])
    assert vector.encode() in answer_of_texts(OPENAI, text.head, [text])


@settings(deadline=None, database=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.floats(0, 10, allow_nan=False),
)
def test_a_whole_answer_is_put_together_exactly(lengths: list[int], tokens: int, cached: int, cost: float) -> None:
    """All of its texts give its own usage again; whole numbers are exact, and dollars up to their last digit."""
    body = answer(*("[1]" for _ in lengths), tokens=tokens, prompt_tokens_details={"cached_tokens": cached}, cost=cost)
    texts = texts_of_answer(OPENAI, body, [json.dumps("x" * length) for length in lengths])
    put_together, server_s = json.loads(answer_of_texts(OPENAI, texts[0].head, texts)), json.loads(body)
    assert put_together["usage"].pop("cost") == pytest.approx(server_s["usage"].pop("cost"))
    assert put_together == server_s


@pytest.mark.parametrize(
    "body",
    [
        answer("[1]"),
        answer("[1]", "[2]", "[3]"),
        b"[]", b"x", b"{}", b'{"data": null}', b'{"data": [1, 2]}', b'{"data": {}}',
        b'{"data": [{"index": 0}, {"index": 0}]}',
        b'{"data": [{"index": 1}, {"index": 2}]}',
        b'{"data": [{"index": 0}, {}]}',
        b'{"data": [{"index": true}, {"index": 0}]}',
        b'{"data": [{"embedding": [1]}, {"embedding": [1]}], "error": {"message": "no"}}',
        answer("[1]", "null"), answer("[1]", "[ ]"), answer("[1]", '""'), answer("[1]", "{}"),
    ],
)  # fmt: skip
def test_answers_without_one_vector_for_each_text_are_unusable(body: bytes) -> None:
    """A wrong vector costs more than a request."""
    with pytest.raises(UnusableAnswer):
        texts_of_answer(OPENAI, body, ['"a"', '"b"'])


def test_items_without_an_index_are_in_order() -> None:
    """Some servers leave it out."""
    texts = texts_of_answer(
        OPENAI, b'{"data": [{"embedding": [1]}, {"embedding": [2]}], "error": null}', ['"1"', '"2"']
    )
    assert [json.loads(text.item) for text in texts] == [{"embedding": [1]}, {"embedding": [2]}]
    assert json.loads(answer_of_texts(OPENAI, texts[0].head, texts[::-1]))["data"] == [
        {"embedding": [2]},
        {"embedding": [1]},
    ]


def test_usage_is_that_of_the_texts() -> None:
    """For the daemon: model and tokens, if they are known."""
    texts = texts_of_answer(OPENAI, answer("[1]", "[2]", tokens=7), ['"a"', '"b"'])
    assert usage_of(texts) == Usage("m", 7)
    assert usage_of([EmbeddedText(b"{}", b"[1]", {})]) is None
    assert usage_of([EmbeddedText(b'{"model": 1}', b"[1]", {"usage": {"prompt_tokens": "x"}})]) is None


@pytest.mark.parametrize("texts", [['"a"', '"bcd"', '"\\u00e9f"'], ["[7]", "[1000,2000,3000]", "[1,2]"]])
def test_usage_is_divided_by_characters_or_tokens(texts: list[str]) -> None:
    """Not by the length of their JSON, which also has quotes, escapes and commas."""
    parts = texts_of_answer(OPENAI, answer("[1]", "[2]", "[3]", tokens=6), texts)
    assert [part.used["usage"]["prompt_tokens"] for part in parts] == [1, 3, 2]


def test_usage_of_empty_texts_is_divided_evenly() -> None:
    """Their length divides nothing."""
    parts = texts_of_answer(OPENAI, answer("[1]", "[2]", tokens=4), ['""', '""'])
    assert [part.used["usage"]["prompt_tokens"] for part in parts] == [2, 2]


def test_texts_in_objects_are_taken_apart() -> None:
    """Gemini's have settings of their own; the answer has their vectors in the same order, without an index."""
    layout = families()["gemini_embed"].layout
    assert layout is not None
    body = b'{"requests": [{"content": {"parts": [{"text": "a"}]}, "title": "t"}, {"content": {"parts": [{"text": "b"}]}}]}'
    wanted = embedding_request(layout, body)
    assert wanted is not None
    one, two = (text.json for text in wanted.inputs)
    assert one == '{"content": {"parts": [{"text": "a"}]}, "title": "t"}'
    assert json.loads(wanted.body_for([two])) == {"requests": [json.loads(two)]}
    answer = b'{"embeddings": [{"values": [0.10]}, {"values": [2]}], "usageMetadata": {"promptTokenCount": 9}}'
    embedded = texts_of_answer(layout, answer, [one, two])
    assert [text.item for text in embedded] == [b'{"values": [0.10]}', b'{"values": [2]}']
    assert usage_of(embedded) == Usage(None, 9)
    assert json.loads(answer_of_texts(layout, embedded[1].head, embedded)) == json.loads(answer)
    for other in (b'{"requests": {"content": "a"}}', b'{"requests": ["a"]}', b'{"content": {"parts": []}}'):
        assert embedding_request(layout, other) is None
