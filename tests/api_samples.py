"""An exchange of each API that the transports know, as its provider's reference describes it: a request and its answers.

`SAMPLES` has them by name. Each answer is complete; tests cut and damage it.
"""

import base64
import json
import struct
import zlib
from typing import Any

from msgspec import Struct

from sidecard_client.protocol.wire import Usage

JSON = "application/json"
EVENTS = "text/event-stream"
JSON_LINES = "application/stream+json"
EVENT_STREAM = "application/vnd.amazon.eventstream"

GOOGLE = "generativelanguage.googleapis.com"
VERTEX = "us-central1-aiplatform.googleapis.com"
COHERE = "api.cohere.com"
MISTRAL = "api.mistral.ai"
OPENAI = "api.openai.com"
ANTHROPIC = "api.anthropic.com"
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"


class Sample(Struct, frozen=True):
    """One exchange. ``family`` is the API's name, and ``used`` what its answer says was used."""

    family: str
    host: str
    path: str
    asked: dict[str, Any] | bytes
    """The fields of a JSON body, or a form."""
    answer: bytes
    answer_type: str = JSON
    used: Usage | None = None
    model: str = ""
    query: str = ""
    asked_type: str = JSON

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.asked if isinstance(self.asked, bytes) else json.dumps(self.asked).encode()


def as_json(value: Any) -> bytes:
    """Write a JSON body."""
    return json.dumps(value).encode()


def as_events(*payloads: Any, named: bool = False, done: bool = False) -> bytes:
    """Write server-sent events."""
    events = [
        (f"event: {payload['type']}\n" if named else "") + f"data: {json.dumps(payload)}\n\n" for payload in payloads
    ]
    return "".join([*events, "data: [DONE]\n\n" if done else ""]).encode()


def as_lines(*payloads: Any) -> bytes:
    """Write JSON lines."""
    return b"".join(as_json(payload) + b"\n" for payload in payloads)


def as_message(payload: Any, kind: str, *, exception: bool = False) -> bytes:
    """Write one message of an AWS event stream."""
    named = (
        {":message-type": "exception", ":exception-type": kind}
        if exception
        else {":message-type": "event", ":event-type": kind}
    )
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in {**named, ":content-type": JSON}.items()
    )
    content = as_json(payload)
    lengths = struct.pack(">II", 16 + len(headers) + len(content), len(headers))
    frame = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + content
    return frame + struct.pack(">I", zlib.crc32(frame))


def as_chunks(*payloads: Any) -> bytes:
    """Write the event stream of ``invoke-with-response-stream``, whose chunks carry a model's own events."""
    return b"".join(
        as_message({"bytes": base64.b64encode(as_json(payload)).decode(), "p": "abc"}, "chunk") for payload in payloads
    )


def as_form(fields: dict[str, Any], boundary: str = "limit") -> bytes:
    """Write a form. A tuple is a file: name, content, media type."""
    parts = []
    for name, value in fields.items():
        if isinstance(value, tuple):
            file_name, content, media_type = value
            head = (
                f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"\r\nContent-Type: {media_type}'
            )
        else:
            head, content = f'Content-Disposition: form-data; name="{name}"', str(value).encode()

        parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")

    return b"".join([*parts, f"--{boundary}--\r\n".encode()])


FORM = "multipart/form-data; boundary=limit"
SONG = ("song.mp3", b"ID3\x00\r\n--li\xff", "audio/mpeg")
PICTURE = ("in.png", b"\x89PNG\r\n\x1a\n", "image/png")


def candidate(text: str, **fields: Any) -> dict[str, Any]:
    """Make a candidate of Gemini's."""
    return {"content": {"role": "model", "parts": [{"text": text}]}, **fields}


_HELLO = [{"role": "user", "content": "hello"}]
_CONTENTS = [{"role": "user", "parts": [{"text": "hello"}]}]
_BLOCKS = [{"role": "user", "content": [{"text": "hello"}]}]
_COUNTS = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
_GEMINI = "/v1beta/models/gemini-3-pro"
_ON_VERTEX = "/v1beta1/projects/p/locations/us-central1/publishers/google/models/gemini-3-pro"
_CLAUDE_ON_VERTEX = "/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-5@20270101"
_CLAUDE = "/model/anthropic.claude-5-v1%3A0"
_GEMINI_USAGE = Usage("gemini-3-pro-001", 5, 2)
_CHUNKS = (
    {"candidates": [candidate("hel", index=0)], "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}},
    {"candidates": [candidate("lo")], "modelVersion": "gemini-3-pro-001"},
    {
        "candidates": [candidate("", finishReason="STOP")],
        "usageMetadata": _COUNTS,
        "modelVersion": "gemini-3-pro-001",
    },
)
_CLAUDE_EVENTS = (
    {"type": "message_start", "message": {"model": "claude-5", "usage": {"input_tokens": 5, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
    {
        "type": "message_stop",
        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 2, "invocationLatency": 90},
    },
)
_MODERATION = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.1}}
_IMAGE_USAGE = {"input_tokens": 9, "output_tokens": 30, "total_tokens": 39, "input_tokens_details": {"text_tokens": 9}}

SAMPLES: dict[str, Sample] = {
    "gemini": Sample(
        "gemini_generate",
        GOOGLE,
        f"{_GEMINI}:generateContent",
        {"contents": _CONTENTS, "generationConfig": {"temperature": 0.5}},
        as_json(
            {
                "candidates": [candidate("hello", finishReason="STOP", index=0)],
                "usageMetadata": _COUNTS,
                "modelVersion": "gemini-3-pro-001",
            }
        ),
        used=_GEMINI_USAGE,
        model="gemini-3-pro",
    ),
    "gemini on vertex": Sample(
        "gemini_generate",
        VERTEX,
        f"{_ON_VERTEX}:generateContent",
        {"contents": _CONTENTS, "labels": {"team": "a"}},
        as_json({"candidates": [candidate("hello", finishReason="STOP")], "usageMetadata": _COUNTS}),
        used=Usage(None, 5, 2),
        model="gemini-3-pro",
    ),
    "gemini events": Sample(
        "gemini_generate",
        GOOGLE,
        f"{_GEMINI}:streamGenerateContent",
        {"contents": _CONTENTS},
        as_events(*_CHUNKS),
        EVENTS,
        used=_GEMINI_USAGE,
        model="gemini-3-pro",
        query="alt=sse",
    ),
    "gemini array": Sample(
        "gemini_generate",
        GOOGLE,
        f"{_GEMINI}:streamGenerateContent",
        {"contents": _CONTENTS},
        as_json(list(_CHUNKS)),
        used=_GEMINI_USAGE,
        model="gemini-3-pro",
    ),
    "gemini embedding": Sample(
        "gemini_embed",
        GOOGLE,
        "/v1beta/models/gemini-embedding-2:embedContent",
        {"model": "models/gemini-embedding-2", "content": {"parts": [{"text": "hello"}]}},
        as_json({"embedding": {"values": [0.1, 0.2]}, "usageMetadata": {"promptTokenCount": 2}}),
        used=Usage(None, 2),
        model="gemini-embedding-2",
    ),
    "gemini embeddings": Sample(
        "gemini_embed",
        GOOGLE,
        "/v1beta/models/gemini-embedding-2:batchEmbedContents",
        {
            "requests": [
                {"model": "models/gemini-embedding-2", "content": {"parts": [{"text": text}]}} for text in ("a", "b")
            ]
        },
        as_json({"embeddings": [{"values": [0.1, 0.2]}, {"values": [0.3, 0.4]}]}),
        model="gemini-embedding-2",
    ),
    "vertex embeddings": Sample(
        "gemini_embed",
        VERTEX,
        "/v1/projects/p/locations/us-central1/publishers/google/models/text-embedding-005:predict",
        {"instances": [{"content": "a", "task_type": "RETRIEVAL_QUERY"}, {"content": "b"}], "parameters": {}},
        as_json(
            {
                "predictions": [
                    {"embeddings": {"values": [value], "statistics": {"token_count": 1, "truncated": False}}}
                    for value in (0.1, 0.2)
                ],
                "metadata": {"billableCharacterCount": 2},
            }
        ),
        used=Usage(None, 2),
        model="text-embedding-005",
    ),
    "gemini count": Sample(
        "gemini_count_tokens",
        GOOGLE,
        f"{_GEMINI}:countTokens",
        {"contents": _CONTENTS},
        as_json({"totalTokens": 5, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 5}]}),
        model="gemini-3-pro",
    ),
    "cohere": Sample(
        "cohere_chat",
        COHERE,
        "/v2/chat",
        {"model": "command-a", "messages": _HELLO, "stream": False},
        as_json(
            {
                "id": "c",
                "finish_reason": "COMPLETE",
                "message": {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
                "usage": {
                    "billed_units": {"input_tokens": 5.0, "output_tokens": 2.0},
                    "tokens": {"input_tokens": 70.0, "output_tokens": 4.0},
                },
            }
        ),
        used=Usage(None, 5, 2),
        model="command-a",
    ),
    "cohere events": Sample(
        "cohere_chat",
        COHERE,
        "/v2/chat",
        {"model": "command-a", "messages": _HELLO, "stream": True},
        as_events(
            {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "hi"}}}},
            {"type": "content-end", "index": 0},
            {
                "type": "message-end",
                "delta": {
                    "finish_reason": "COMPLETE",
                    "usage": {"billed_units": {"input_tokens": 5, "output_tokens": 2}, "cached_tokens": 3},
                },
            },
            named=True,
        ),
        EVENTS,
        used=Usage(None, 5, 2, cached_prompt_tokens=3),
        model="command-a",
    ),
    "cohere v1": Sample(
        "cohere_chat",
        COHERE,
        "/v1/chat",
        {"model": "command-r", "message": "hello", "stream": False},
        as_json(
            {
                "text": "hi",
                "generation_id": "g",
                "finish_reason": "COMPLETE",
                "meta": {"billed_units": {"input_tokens": 5, "output_tokens": 2}},
            }
        ),
        used=Usage(None, 5, 2),
        model="command-r",
    ),
    "cohere v1 lines": Sample(
        "cohere_chat",
        COHERE,
        "/v1/chat",
        {"model": "command-r", "message": "hello", "stream": True},
        as_lines(
            {"is_finished": False, "event_type": "stream-start", "generation_id": "g"},
            {"is_finished": False, "event_type": "text-generation", "text": "hi"},
            {
                "is_finished": True,
                "event_type": "stream-end",
                "finish_reason": "COMPLETE",
                "response": {
                    "text": "hi",
                    "finish_reason": "COMPLETE",
                    "meta": {"billed_units": {"input_tokens": 5, "output_tokens": 2}},
                },
            },
        ),
        JSON_LINES,
        used=Usage(None, 5, 2),
        model="command-r",
    ),
    "cohere embeddings": Sample(
        "cohere_embed",
        COHERE,
        "/v2/embed",
        {
            "model": "embed-v4.0",
            "texts": ["a", "b"],
            "input_type": "search_query",
            "embedding_types": ["float", "int8"],
        },
        as_json(
            {
                "id": "e",
                "response_type": "embeddings_by_type",
                "texts": ["a", "b"],
                "embeddings": {"float": [[0.1], [0.2]], "int8": [[1], [2]]},
                "meta": {"billed_units": {"input_tokens": 2}},
            }
        ),
        used=Usage(None, 2),
        model="embed-v4.0",
    ),
    "cohere v1 embeddings": Sample(
        "cohere_embed",
        COHERE,
        "/v1/embed",
        {"model": "embed-english-v3.0", "texts": ["a", "b"], "input_type": "search_query"},
        as_json({"id": "e", "response_type": "embeddings_floats", "texts": ["a", "b"], "embeddings": [[0.1], [0.2]]}),
        model="embed-english-v3.0",
    ),
    "cohere rerank": Sample(
        "rerank",
        COHERE,
        "/v2/rerank",
        {"model": "rerank-v4.0", "query": "q", "documents": ["a", "b", "c"], "top_n": 2},
        as_json(
            {
                "id": "r",
                "results": [{"index": 2, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
                "meta": {"billed_units": {"search_units": 1}},
            }
        ),
        model="rerank-v4.0",
    ),
    "mistral fim": Sample(
        "mistral_fim",
        MISTRAL,
        "/v1/fim/completions",
        {"model": "codestral", "prompt": "def f(", "suffix": "return 1", "random_seed": 1},
        as_json(
            {
                "id": "f",
                "object": "chat.completion",
                "created": 1,
                "model": "codestral-2",
                "choices": [{"index": 0, "message": {"content": "):"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            }
        ),
        used=Usage("codestral-2", 5, 2),
        model="codestral",
    ),
    "mistral fim events": Sample(
        "mistral_fim",
        MISTRAL,
        "/v1/fim/completions",
        {"model": "codestral", "prompt": "def f(", "stream": True},
        as_events(
            {
                "id": "f",
                "model": "codestral-2",
                "choices": [{"index": 0, "delta": {"content": "):"}, "finish_reason": None}],
            },
            {
                "id": "f",
                "model": "codestral-2",
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            },
            done=True,
        ),
        EVENTS,
        used=Usage("codestral-2", 5, 2),
        model="codestral",
    ),
    "image": Sample(
        "openai_images",
        OPENAI,
        "/v1/images/generations",
        {"model": "gpt-image-2", "prompt": "a cat", "n": 2},
        as_json({"created": 1, "data": [{"b64_json": "AAAA"}, {"b64_json": "BBBB"}], "usage": _IMAGE_USAGE}),
        used=Usage(None, 9, 30),
        model="gpt-image-2",
    ),
    "image events": Sample(
        "openai_images",
        OPENAI,
        "/v1/images/generations",
        {"model": "gpt-image-2", "prompt": "a cat", "stream": True, "partial_images": 1},
        as_events(
            {"type": "image_generation.partial_image", "b64_json": "AA", "partial_image_index": 0},
            {"type": "image_generation.completed", "b64_json": "AAAA", "usage": _IMAGE_USAGE},
            named=True,
        ),
        EVENTS,
        used=Usage(None, 9, 30),
        model="gpt-image-2",
    ),
    "image edit": Sample(
        "openai_images",
        OPENAI,
        "/v1/images/edits",
        as_form({"model": "gpt-image-2", "prompt": "a hat", "image": PICTURE}),
        as_json({"created": 1, "data": [{"b64_json": "AAAA"}], "usage": _IMAGE_USAGE}),
        used=Usage(None, 9, 30),
        model="gpt-image-2",
        asked_type=FORM,
    ),
    "moderation": Sample(
        "openai_moderations",
        OPENAI,
        "/v1/moderations",
        {"model": "omni-moderation-latest", "input": ["a", "b"]},
        as_json({"id": "m", "model": "omni-moderation-2", "results": [_MODERATION, _MODERATION]}),
        used=Usage("omni-moderation-2"),
        model="omni-moderation-latest",
    ),
    "speech": Sample(
        "openai_speech",
        OPENAI,
        "/v1/audio/speech",
        {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "hello"},
        b"ID3\x04\x00\xff\xfb\x90data: {",
        "audio/mpeg",
        model="gpt-4o-mini-tts",
    ),
    "speech events": Sample(
        "openai_speech",
        OPENAI,
        "/v1/audio/speech",
        {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "hello", "stream_format": "sse"},
        as_events(
            {"type": "speech.audio.delta", "audio": "AAAA"},
            {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 20, "total_tokens": 25}},
        ),
        EVENTS,
        used=Usage(None, 5, 20),
        model="gpt-4o-mini-tts",
    ),
    "mistral speech": Sample(
        "openai_speech",
        MISTRAL,
        "/v1/audio/speech",
        {"model": "voxtral-tts", "voice_id": "v", "input": "hello"},
        as_json({"audio_data": "AAAA"}),
        model="voxtral-tts",
    ),
    "transcription": Sample(
        "openai_transcriptions",
        OPENAI,
        "/v1/audio/transcriptions",
        as_form({"model": "gpt-4o-transcribe", "file": SONG}),
        as_json(
            {"text": "hello", "usage": {"type": "tokens", "input_tokens": 5, "output_tokens": 2, "total_tokens": 7}}
        ),
        used=Usage(None, 5, 2),
        model="gpt-4o-transcribe",
        asked_type=FORM,
    ),
    "transcription events": Sample(
        "openai_transcriptions",
        OPENAI,
        "/v1/audio/transcriptions",
        as_form({"model": "gpt-4o-transcribe", "file": SONG, "stream": "true"}),
        as_events(
            {"type": "transcript.text.delta", "delta": "hel"},
            {
                "type": "transcript.text.done",
                "text": "hello",
                "usage": {"type": "tokens", "input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
            },
        ),
        EVENTS,
        used=Usage(None, 5, 2),
        model="gpt-4o-transcribe",
        asked_type=FORM,
    ),
    "mistral transcription events": Sample(
        "openai_transcriptions",
        MISTRAL,
        "/v1/audio/transcriptions",
        as_form({"model": "voxtral-mini", "file": SONG, "stream": "true"}),
        as_events(
            {"type": "transcription.language", "audio_language": "en"},
            {"type": "transcription.text.delta", "text": "hel"},
            {
                "type": "transcription.done",
                "model": "voxtral-mini",
                "language": None,
                "text": "hello",
                "usage": {"prompt_tokens": 5, "completion_tokens": 2},
            },
            named=True,
        ),
        EVENTS,
        used=Usage("voxtral-mini", 5, 2),
        model="voxtral-mini",
        asked_type=FORM,
    ),
    "subtitles": Sample(
        "openai_transcriptions",
        OPENAI,
        "/v1/audio/translations",
        as_form({"model": "whisper-1", "file": SONG, "response_format": "srt"}),
        b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "text/plain; charset=utf-8",
        model="whisper-1",
        asked_type=FORM,
    ),
    "anthropic count": Sample(
        "anthropic_count_tokens",
        ANTHROPIC,
        "/v1/messages/count_tokens",
        {"model": "claude-5", "messages": _HELLO},
        as_json({"input_tokens": 5}),
        model="claude-5",
    ),
    "bedrock claude": Sample(
        "bedrock_invoke",
        BEDROCK,
        f"{_CLAUDE}/invoke",
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": _HELLO},
        as_json(
            {
                "id": "m",
                "type": "message",
                "model": "claude-5",
                "content": [{"type": "text", "text": "hi"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 5, "output_tokens": 2},
            }
        ),
        used=Usage("claude-5", 5, 2),
        model="anthropic.claude-5-v1:0",
    ),
    "bedrock claude stream": Sample(
        "bedrock_invoke",
        BEDROCK,
        f"{_CLAUDE}/invoke-with-response-stream",
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": _HELLO},
        as_chunks(*_CLAUDE_EVENTS),
        EVENT_STREAM,
        used=Usage("claude-5", 5, 2),
        model="anthropic.claude-5-v1:0",
    ),
    "vertex claude": Sample(
        "anthropic_vertex",
        VERTEX,
        f"{_CLAUDE_ON_VERTEX}:rawPredict",
        {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": _HELLO},
        as_json(
            {
                "type": "message",
                "model": "claude-5",
                "content": [{"type": "text", "text": "hi"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 5, "output_tokens": 2},
            }
        ),
        used=Usage("claude-5", 5, 2),
        model="claude-5@20270101",
    ),
    "vertex claude stream": Sample(
        "anthropic_vertex",
        VERTEX,
        f"{_CLAUDE_ON_VERTEX}:streamRawPredict",
        {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": _HELLO, "stream": True},
        as_events(*_CLAUDE_EVENTS, named=True),
        EVENTS,
        used=Usage("claude-5", 5, 2),
        model="claude-5@20270101",
    ),
    "bedrock converse": Sample(
        "bedrock_converse",
        BEDROCK,
        "/model/us.amazon.nova-2-lite-v1%3A0/converse",
        {"messages": _BLOCKS, "inferenceConfig": {"maxTokens": 9}},
        as_json(
            {
                "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
                "stopReason": "end_turn",
                "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7},
                "metrics": {"latencyMs": 90},
            }
        ),
        used=Usage(None, 5, 2),
        model="us.amazon.nova-2-lite-v1:0",
    ),
    "bedrock converse stream": Sample(
        "bedrock_converse",
        BEDROCK,
        "/model/us.amazon.nova-2-lite-v1%3A0/converse-stream",
        {"messages": _BLOCKS},
        as_message({"role": "assistant"}, "messageStart")
        + as_message({"contentBlockIndex": 0, "delta": {"text": "hi"}}, "contentBlockDelta")
        + as_message({"contentBlockIndex": 0}, "contentBlockStop")
        + as_message({"stopReason": "end_turn"}, "messageStop")
        + as_message(
            {"usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}, "metrics": {"latencyMs": 90}}, "metadata"
        ),
        EVENT_STREAM,
        used=Usage(None, 5, 2),
        model="us.amazon.nova-2-lite-v1:0",
    ),
    "bedrock count": Sample(
        "bedrock_count_tokens",
        BEDROCK,
        f"{_CLAUDE}/count-tokens",
        {"input": {"converse": {"messages": _BLOCKS}}},
        as_json({"inputTokens": 5}),
        model="anthropic.claude-5-v1:0",
    ),
}
