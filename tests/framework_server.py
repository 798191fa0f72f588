"""A server for SDKs and frameworks that answers an equal request with equal bytes, so that runs can be compared in every field.

With ``model``, a real llama.cpp server answers what it can, and its answers are recorded. All others are scripted:
a text, the first tool's call with `ARGUMENTS`, or a JSON object of `ARGUMENTS`, in each provider's own form.
"""

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from msgspec import Struct

from tests.loopback import LoopbackServer

ARGUMENTS = {"city": "Paris", "degrees": 21}
"""What the model calls every tool with, and what it says when asked for an object."""

WORDS = ["The", " sky", " is", " blue."]
SECONDS = 120.0

_OF_LLAMA = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_EVENTS = "text/event-stream"


class Sent(Struct, frozen=True):
    """An answer."""

    content_type: str
    pieces: tuple[bytes, ...]


class FrameworkServer:
    """Answer requests, and note each in `asked`: its path and body."""

    def __init__(self, model: str | None = None) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._model = model
        self._recorded: dict[tuple[str, bytes], Sent] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            served = server

        self._server = LoopbackServer(Handler)
        self.url = self._server.url

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Sent:
        """Return the answer to a request, the recorded one if it is not the first."""
        with self._lock:
            self.asked.append((path, body))
            sent = self._recorded.get((path, body))

        if sent is None:
            sent = self._new_answer(path, body)
            with self._lock:
                sent = self._recorded.setdefault((path, body), sent)

        return sent

    def _new_answer(self, path: str, body: bytes) -> Sent:
        request = json.loads(body or b"{}")
        scripted = {"tools", "response_format", "output_format", "output_config"} & {
            name for name, value in request.items() if value
        }
        scripted |= {"text"} & set(request) if "format" in (request.get("text") or {}) else set()
        if self._model is not None and path in _OF_LLAMA and not scripted:
            return self._of_llama(path, body)

        number = hashlib.sha256(path.encode() + body).hexdigest()[:12]
        events = _scripted(path.partition("?")[0], request, number)
        if isinstance(events, dict):
            return Sent("application/json", (json.dumps(events).encode(),))

        content_type = "application/x-ndjson" if path.startswith("/api/") else _EVENTS
        return Sent(content_type, tuple(events))

    def _of_llama(self, path: str, body: bytes) -> Sent:
        # A short answer that ends by itself, since answers that are cut at their maximum length are not stored.
        ends = {"stop_sequences": ["!"]} if path == "/v1/messages" else {"stop": ["!"]}
        short = json.dumps(json.loads(body) | {"temperature": 0} | ends).encode()
        request = urllib.request.Request(  # noqa: S310 - a server on loopback
            f"{self._model}{path}", short, {"content-type": "application/json", "authorization": "Bearer k"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310 - as above
            content_type = response.headers["content-type"]
            whole = response.read()

        if not content_type.startswith(_EVENTS):
            return Sent(content_type, (whole,))

        return Sent(content_type, tuple(event + b"\n\n" for event in whole.split(b"\n\n") if event))


class _Handler(BaseHTTPRequestHandler):
    served: FrameworkServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer questions about the server itself."""
        self._send(Sent("application/json", (b'{"object": "list", "data": [], "models": []}',)))

    def do_POST(self) -> None:
        """Answer."""
        self._send(self.served.answer(self.path, self._body()))

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"] or 0))

        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()

        self.rfile.readline()
        return body

    def _send(self, sent: Sent) -> None:
        stream = len(sent.pieces) > 1
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", sent.content_type)
            self.send_header("x-request-id", "req-1")
            if not stream:
                self.send_header("Content-Length", str(len(sent.pieces[0])))
                self.end_headers()
                self.wfile.write(sent.pieces[0])
                return

            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in sent.pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()

            self.wfile.write(b"0\r\n\r\n")


# Scripted answers -----------------------------------------------------------------------------------------------------


def _scripted(path: str, request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    """Return an object, or the events of a stream."""
    if path.endswith("/chat/completions"):
        return _openai_chat(request, number)

    if path.endswith("/responses"):
        return _openai_response(request, number)

    if path.endswith("/messages"):
        return _anthropic(request, number)

    if path == "/api/chat":
        return _ollama(request)

    if path.startswith("/model/"):
        return _bedrock(path, request, number)

    if "models/" in path:
        return _gemini(path, request, number)

    if path.startswith("/v2/"):
        return _cohere(path, request, number)

    raise AssertionError(f"no script for {path}")


def _is_answered(messages: list[dict[str, Any]]) -> bool:
    """Whether a tool's result is among the messages."""
    return any(message.get("role") == "tool" or "tool_result" in json.dumps(message) for message in messages)


def _events(events: list[dict[str, Any]], *, named: bool = False, done: bool = False) -> Iterator[bytes]:
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        yield f"{name}data: {json.dumps(event)}\n\n".encode()

    if done:
        yield b"data: [DONE]\n\n"


def _openai_chat(request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    common = {"id": f"chatcmpl-{number}", "created": 1_700_000_000, "model": request["model"]}
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    tools = request.get("tools") or []
    finish = "stop"
    parts: list[dict[str, Any]] = [{"content": word} for word in WORDS]
    if tools and not _is_answered(request["messages"]):
        finish, called = "tool_calls", tools[0]["function"]["name"]
        function = {"name": called, "arguments": json.dumps(ARGUMENTS)}
        parts = [{"tool_calls": [{"index": 0, "id": f"call_{number}"[:9], "type": "function", "function": function}]}]
    elif request.get("response_format"):
        parts = [{"content": json.dumps(ARGUMENTS)}]

    if request.get("stream"):
        chunk = common | {"object": "chat.completion.chunk"}
        choices: list[dict[str, Any]] = [
            {"index": 0, "delta": {"role": "assistant"} | part, "finish_reason": None} for part in parts
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
        events = [chunk | {"choices": [choice]} for choice in choices]
        if (request.get("stream_options") or {}).get("include_usage"):
            events.append(chunk | {"choices": [], "usage": usage})

        return _events(events, done=True)

    message: dict[str, Any] = {"role": "assistant", "content": None} | parts[0]
    for call in message.get("tool_calls", ()):
        del call["index"]

    if finish == "stop":
        message["content"] = "".join(part["content"] for part in parts)

    choice = {"index": 0, "message": message, "finish_reason": finish}
    return common | {"object": "chat.completion", "choices": [choice], "usage": usage}


def _openai_response(request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    given = request["input"]
    answered = isinstance(given, list) and any(item.get("type") == "function_call_output" for item in given)
    tools = [tool for tool in request.get("tools") or [] if tool["type"] == "function"]
    text = json.dumps(ARGUMENTS) if "format" in (request.get("text") or {}) else "".join(WORDS)
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    item: dict[str, Any] = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed"}
    item["content"] = [part]
    if tools and not answered:
        item = {"id": f"fc_{number}", "call_id": f"call_{number}", "type": "function_call", "status": "completed"}
        item |= {"name": tools[0]["name"], "arguments": json.dumps(ARGUMENTS)}

    usage = {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11}
    usage_details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response: dict[str, Any] = {"id": f"resp_{number}", "object": "response", "created_at": 1_700_000_000.0}
    response |= {"status": "completed", "model": request["model"], "error": None, "incomplete_details": None}
    response |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "output": [item]}
    response["usage"] = usage | usage_details
    if not request.get("stream"):
        return response

    begun = response | {"status": "in_progress", "output": [], "usage": None}
    place = {"item_id": item["id"], "output_index": 0}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    events.append({"type": "response.output_item.added", "output_index": 0, "item": item})
    if item["type"] == "message":
        text_place = place | {"content_index": 0, "logprobs": []}
        events += [{"type": "response.output_text.delta", "delta": word} | text_place for word in WORDS]
    else:
        events.append({"type": "response.function_call_arguments.done", "arguments": item["arguments"]} | place)

    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": response})
    return _events([event | {"sequence_number": index} for index, event in enumerate(events)], named=True)


def _anthropic(request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    message: dict[str, Any] = {"id": f"msg_{number}", "type": "message", "role": "assistant"}
    message |= {"model": request.get("model", "m"), "stop_sequence": None}
    tools = request.get("tools") or []
    block: dict[str, Any] = {"type": "text", "text": "".join(WORDS)}
    finish = "end_turn"
    if tools and not _is_answered(request["messages"]):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": tools[0]["name"], "input": ARGUMENTS}
        finish = "tool_use"
    elif request.get("output_format") or request.get("output_config"):
        block = {"type": "text", "text": json.dumps(ARGUMENTS)}

    usage = {"input_tokens": 7, "output_tokens": 4}
    if not request.get("stream"):
        return message | {"content": [block], "stop_reason": finish, "usage": usage}

    begun = message | {"content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    if block["type"] == "text":
        events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": word} for word in WORDS]
    else:
        events.append({"type": "content_block_start", "index": 0, "content_block": block | {"input": {}}})
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)}]

    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events.append({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": finish, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}})
    events.append({"type": "message_stop"})
    return _events(events, named=True)


def _ollama(request: dict[str, Any]) -> dict[str, Any] | Iterator[bytes]:
    common = {"model": request["model"], "created_at": "2026-01-01T00:00:01Z"}
    last = {"done": True, "done_reason": "stop", "total_duration": 5, "prompt_eval_count": 7, "eval_count": 4}
    messages: list[dict[str, Any]] = [{"role": "assistant", "content": word} for word in WORDS]
    tools = request.get("tools") or []
    if tools and not _is_answered(request["messages"]):
        call = {"function": {"name": tools[0]["function"]["name"], "arguments": ARGUMENTS}}
        messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    elif request.get("format"):
        messages = [{"role": "assistant", "content": json.dumps(ARGUMENTS)}]

    if request.get("stream") is False:
        whole = messages[0] | {"content": "".join(message["content"] for message in messages)}
        return common | last | {"message": whole}

    lines = [common | {"message": message, "done": False} for message in messages]
    lines.append(common | last | {"message": {"role": "assistant", "content": ""}})
    return (json.dumps(line).encode() + b"\n" for line in lines)


def _gemini(path: str, request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    common = {"modelVersion": "gemini", "responseId": number}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 11}
    config = request.get("generationConfig") or {}
    if path.endswith(":embedContent"):
        return {"embedding": {"values": [0.25, 0.5]}}

    if path.endswith(":batchEmbedContents"):
        return {"embeddings": [{"values": [0.25, 0.5]} for _ in request["requests"]]}

    parts: list[dict[str, Any]] = [{"text": word} for word in WORDS]
    answered = "functionResponse" in json.dumps(request["contents"])
    if request.get("tools") and not answered:
        declared = request["tools"][0].get("functionDeclarations") or request["tools"][0]["function_declarations"]
        parts = [{"functionCall": {"name": declared[0]["name"], "args": ARGUMENTS}}]
    elif config.get("responseMimeType") == "application/json":
        parts = [{"text": json.dumps(ARGUMENTS)}]

    def candidate(parts: list[dict[str, Any]], **more: str) -> dict[str, Any]:
        return {"candidates": [{"index": 0, "content": {"role": "model", "parts": parts}} | more]} | common

    if path.endswith(":generateContent"):
        text = "".join(part.get("text", "") for part in parts)
        whole = [{"text": text}] if text else parts
        return candidate(whole, finishReason="STOP") | {"usageMetadata": usage}

    chunks = [candidate([part]) for part in parts[:-1]]
    chunks.append(candidate(parts[-1:], finishReason="STOP") | {"usageMetadata": usage})
    return _events(chunks)


def _cohere(path: str, request: dict[str, Any], number: str) -> dict[str, Any] | Iterator[bytes]:
    units = {"input_tokens": 7, "output_tokens": 4}
    if path == "/v2/embed":
        vectors = {"float": [[0.25, 0.5] for _ in request.get("texts") or [""]]}
        return {"id": number, "embeddings": vectors, "texts": request.get("texts"), "meta": {"billed_units": units}}

    if path == "/v2/rerank":
        results = [{"index": index, "relevance_score": 0.5} for index, _ in enumerate(request["documents"])]
        return {"id": number, "results": results, "meta": {"billed_units": {"search_units": 1}}}

    usage = {"billed_units": units, "tokens": units}
    tools = request.get("tools") or []
    if tools and not _is_answered(request["messages"]):
        function = {"name": tools[0]["function"]["name"], "arguments": json.dumps(ARGUMENTS)}
        message: dict[str, Any] = {"role": "assistant", "tool_plan": "I look."}
        message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": function}]
        return {"id": number, "finish_reason": "TOOL_CALL", "message": message, "usage": usage}

    words = [json.dumps(ARGUMENTS)] if request.get("response_format") else WORDS
    if not request.get("stream"):
        message = {"role": "assistant", "content": [{"type": "text", "text": "".join(words)}]}
        return {"id": number, "finish_reason": "COMPLETE", "message": message, "usage": usage}

    start = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
    events: list[dict[str, Any]] = [{"type": "message-start", "id": number, "delta": start}]
    text = {"type": "text", "text": ""}
    events.append({"type": "content-start", "index": 0, "delta": {"message": {"content": text}}})
    events += [
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": word}}}} for word in words
    ]
    events.append({"type": "content-end", "index": 0})
    events.append({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}})
    return _events(events, named=True, done=True)


def _bedrock(path: str, request: dict[str, Any], number: str) -> dict[str, Any]:
    if path.endswith("/invoke"):
        answer = _anthropic(request, number)
        assert isinstance(answer, dict)
        return answer

    content: dict[str, Any] = {"text": "".join(WORDS)}
    finish = "end_turn"
    tools = (request.get("toolConfig") or {}).get("tools") or []
    if tools and "toolResult" not in json.dumps(request["messages"]):
        called = tools[0]["toolSpec"]["name"]
        content = {"toolUse": {"toolUseId": f"t_{number}", "name": called, "input": ARGUMENTS}}
        finish = "tool_use"

    answer = {"output": {"message": {"role": "assistant", "content": [content]}}, "stopReason": finish}
    usage = {"inputTokens": 7, "outputTokens": 4, "totalTokens": 11}
    return answer | {"usage": usage, "metrics": {"latencyMs": 5}}
