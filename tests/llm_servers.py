"""Local servers that speak what language models' servers speak: a scripted one, and llama.cpp's own with a real model.

Every answer of the scripted one has fresh ids and a counter in its text, so that a test sees whose answer it got.
"""

import base64
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from sidecard.cli.demo.model import find_model
from tests.daemons import poll
from tests.loopback import LoopbackListener, LoopbackServer

SECONDS = 20.0


class Question(Struct, frozen=True):
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Refusal(Struct, frozen=True):
    """A response that is no answer."""

    status: int
    headers: dict[str, str] = {}
    type: str = "server_error"
    message: str = "scripted"


class Cut(Struct, frozen=True):
    """A stream that ends after ``pieces``: with a reset, or ``cleanly``, with what closes a stream but without its finish."""

    pieces: int
    cleanly: bool = False


class ScriptedModel:
    """Serves OpenAI's, Anthropic's and Ollama's interfaces on a loopback port, each request in a thread of its own."""

    def __init__(self, pieces: int = 4) -> None:
        self.pieces = pieces
        self.asked: list[Question] = []
        self.next: list[Refusal | Cut] = []
        """What becomes of the next requests, one each."""
        self.finish = "stop"
        """As OpenAI's interface calls it."""
        self.permits: threading.Semaphore | None = None
        """Where it is set, each piece of a stream takes one."""
        self.gone = 0
        """Streams whose client left before their end."""
        self._ids = itertools.count(1)
        model = self

        class Handler(_Handler):
            """Answers for this model."""

            served = model

        self._server = _Server(Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    @property
    def count(self) -> int:
        """How often it was asked."""
        return len(self.asked)

    def lets(self, count: int) -> None:
        """Let so many pieces out."""
        assert self.permits is not None
        for _ in range(count):
            self.permits.release()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        assert self._server.mistakes == []


class _Server(LoopbackServer):
    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its signature
        """Keep what is a mistake of the server: that clients leave is what tests do."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.mistakes.append(error)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.mistakes: list[BaseException | None] = []


class _Handler(BaseHTTPRequestHandler):
    served: ScriptedModel
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """List the models."""
        self._json({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "tests"}]})

    def do_POST(self) -> None:
        """Answer by what is scripted, else as the interface does."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = self.served
        headers = {name.lower(): value for name, value in self.headers.items()}
        model.asked.append(Question(self.path, headers, body))
        self._number = len(model.asked)
        self._id = f"id-{next(model._ids)}"
        self._model = body.get("model", "m")
        self._cut: Cut | None = None
        scripted = model.next.pop(0) if model.next else None
        if isinstance(scripted, Refusal):
            error = {"type": scripted.type, "message": scripted.message, "code": scripted.type}
            whole = {"error": scripted.message} if self.path.startswith("/api/") else {"type": "error", "error": error}
            self._json(whole, scripted.status, scripted.headers)
            return

        self._cut = scripted
        answer = _ANSWERS[self.path]
        events = answer(self, body)
        if isinstance(events, dict):
            self._json(events)
        else:
            self._stream(events, lines=self.path.startswith("/api/"))

    def _text(self, prompt: object) -> list[str]:
        words = [f"answer {self._number} ", f"to {prompt}"]
        words += [f" word{number}" for number in range(self.served.pieces)]
        return words[: self.served.pieces]

    def _json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"x-request-id": getattr(self, "_id", "none")} | (headers or {})).items():
            self.send_header(name, value)

        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[tuple[str, object]], *, lines: bool) -> None:
        """Send events; those named "piece" wait for a permit, and may be the last ones."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson" if lines else "text/event-stream; charset=utf-8")
        self.send_header("x-request-id", self._id)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        model, sent = self.served, 0
        try:
            for name, event in events:
                cut = self._cut is not None and (name == "finish" or (name == "piece" and sent == self._cut.pieces))
                if cut and self._cut is not None and not self._cut.cleanly:
                    self._reset()
                    return

                if cut:
                    break

                if name == "piece":
                    if model.permits is not None:
                        assert model.permits.acquire(timeout=SECONDS)

                    sent += 1

                self._chunk(_line(event) if lines else _event(event))

            if not lines and self.path.startswith("/v1/chat"):
                self._chunk(b"data: [DONE]\n\n")

            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            model.gone += 1
            self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    # The interfaces ---------------------------------------------------------------------------------------------------

    def answer_chat(self, body: dict[str, Any]) -> Any:
        """OpenAI's chat completions."""
        words = self._text(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        common = {"id": self._id, "created": 1_700_000_000 + self._number, "model": self._model}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": self.served.finish, "logprobs": None}
            return common | {"object": "chat.completion", "choices": [choice], "usage": usage}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return common | {"object": "chat.completion.chunk", "choices": [choice]}

        def events() -> Iterator[tuple[str, object]]:
            yield "head", chunk({"role": "assistant", "content": ""})
            for word in words:
                yield "piece", chunk({"content": word})

            yield "finish", chunk({}, self.served.finish)
            if (body.get("stream_options") or {}).get("include_usage"):
                yield "usage", common | {"object": "chat.completion.chunk", "choices": [], "usage": usage}

        return events()

    def answer_completions(self, body: dict[str, Any]) -> Any:
        """OpenAI's plain completions."""
        words = self._text(body["prompt"])
        common = {"id": self._id, "created": self._number, "model": self._model, "object": "text_completion"}

        def choice(text: str, finish: str | None) -> dict[str, Any]:
            return common | {"choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]}

        if not body.get("stream"):
            usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
            return choice("".join(words), self.served.finish) | {"usage": usage}

        return iter([*(("piece", choice(word, None)) for word in words), ("finish", choice("", self.served.finish))])

    def answer_responses(self, body: dict[str, Any]) -> Any:
        """OpenAI's responses."""
        words = self._text(body["input"])
        text = "".join(words)

        def response(status: str, *output: object) -> dict[str, Any]:
            usage = {
                "input_tokens": 7,
                "output_tokens": len(words),
                "total_tokens": 7 + len(words),
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            }
            return {
                "id": self._id,
                "object": "response",
                "created_at": 1_700_000_000.0,
                "status": status,
                "error": None,
                "incomplete_details": None,
                "model": self._model,
                "output": list(output),
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "usage": usage if output else None,
            }

        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"id": "m-1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        if not body.get("stream"):
            return response("completed", message)

        def events() -> Iterator[tuple[str, object]]:
            numbers = itertools.count()
            place = {"item_id": "m-1", "output_index": 0, "content_index": 0}
            open_message = message | {"status": "in_progress", "content": []}
            yield "head", _numbered("response.created", numbers, response=response("in_progress"))
            yield "head", _numbered("response.output_item.added", numbers, output_index=0, item=open_message)
            yield "head", _numbered("response.content_part.added", numbers, **place, part=part | {"text": ""})
            for word in words:
                yield "piece", _numbered("response.output_text.delta", numbers, **place, delta=word, logprobs=[])

            yield "finish", _numbered("response.output_text.done", numbers, **place, text=text, logprobs=[])
            yield "finish", _numbered("response.content_part.done", numbers, **place, part=part)
            yield "finish", _numbered("response.output_item.done", numbers, output_index=0, item=message)
            yield "finish", _numbered("response.completed", numbers, response=response("completed", message))

        return events()

    def answer_embeddings(self, body: dict[str, Any]) -> Any:
        """OpenAI's embeddings, which its SDK asks for in base64."""
        vector = [0.25, 0.5, float(self._number)]
        encoded = base64.b64encode(struct.pack("<3f", *vector)).decode()
        said: object = encoded if body.get("encoding_format") == "base64" else vector
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": index, "embedding": said} for index, _ in enumerate(texts)]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def answer_messages(self, body: dict[str, Any]) -> Any:
        """Anthropic's messages."""
        words = self._text(body["messages"][-1]["content"])
        reason = {"stop": "end_turn", "length": "max_tokens"}[self.served.finish]
        message = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [{"type": "text", "text": "".join(words)}],
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": len(words)},
        }
        if not body.get("stream"):
            return message

        def events() -> Iterator[tuple[str, object]]:
            begun = message | {"content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}
            yield "head", {"type": "message_start", "message": begun}
            yield "head", {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            yield "head", {"type": "ping"}
            for word in words:
                yield (
                    "piece",
                    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}},
                )

            yield "finish", {"type": "content_block_stop", "index": 0}
            delta = {"stop_reason": reason, "stop_sequence": None}
            yield "finish", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": len(words)}}
            yield "finish", {"type": "message_stop"}

        return events()

    def answer_ollama(self, body: dict[str, Any]) -> Any:
        """Ollama's chat and generate."""
        chat = self.path == "/api/chat"
        words = self._text(body["messages"][-1]["content"] if chat else body["prompt"])

        def line(text: str, *, done: bool) -> dict[str, Any]:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
            said |= {"model": self._model, "created_at": f"2026-01-01T00:00:{self._number:02}Z", "done": done}
            last = {"done_reason": self.served.finish, "prompt_eval_count": 7, "eval_count": len(words)}
            return said | (last | {"total_duration": self._number} if done else {})

        if body.get("stream") is False:
            return line("".join(words), done=True)

        return iter([*(("piece", line(word, done=False)) for word in words), ("finish", line("", done=True))])

    def answer_ollama_embed(self, body: dict[str, Any]) -> Any:
        """Ollama's embeddings."""
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [[0.5, float(self._number)] for _ in texts]
        return {"model": self._model, "embeddings": vectors, "prompt_eval_count": 3, "total_duration": self._number}


_ANSWERS: dict[str, Callable[[_Handler, dict[str, Any]], Any]] = {
    "/v1/chat/completions": _Handler.answer_chat,
    "/v1/completions": _Handler.answer_completions,
    "/v1/responses": _Handler.answer_responses,
    "/v1/embeddings": _Handler.answer_embeddings,
    "/v1/messages": _Handler.answer_messages,
    "/api/chat": _Handler.answer_ollama,
    "/api/generate": _Handler.answer_ollama,
    "/api/embed": _Handler.answer_ollama_embed,
}


def _numbered(kind: str, numbers: Iterator[int], **fields: object) -> dict[str, object]:
    return {"type": kind, "sequence_number": next(numbers), **fields}


def _event(event: object) -> bytes:
    kind = event.get("type") if isinstance(event, dict) else None
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _line(event: object) -> bytes:
    return json.dumps(event).encode() + b"\n"


# A real model ----------------------------------------------------------------------------------------------------------

_SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, port, embedding = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "embedding"
params.n_ctx, params.n_parallel, params.offline = 2048, 2, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.port, params.embedding = port, embedding
if embedding:
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
sys.stdin.read()
"""


class RealModel(Struct):
    """llama.cpp's own server, behind a proxy that counts."""

    url: str
    asked: list[str]

    @property
    def count(self) -> int:
        """How often it was asked."""
        return len(self.asked)


@contextmanager
def real_model(*, embedding: bool = False) -> Iterator[RealModel]:
    """Run llama.cpp's OpenAI-compatible server with a real model in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    command = [sys.executable, "-c", _SERVE, str(find_model(None)), str(port), "embedding" if embedding else "chat"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    try:
        poll(lambda: _listens(port) or process.poll() is not None, "the model never listened", 60.0)
        assert process.poll() is None, "the model's process has ended"
        with _Proxy(port) as proxy:
            yield proxy.model
    finally:
        process.kill()
        process.communicate()


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class _Proxy(LoopbackListener):
    """Hands bytes on, and notes the first line of each request."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.model = RealModel(self.url, [])

    def _serve(self, connection: socket.socket) -> None:
        with connection, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._copy, args=(server, connection, False), daemon=True)
            back.start()
            self._copy(connection, server, noted=True)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket, noted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if noted and data.startswith(b"POST "):
                    self.model.asked.append(data.split(b" ", 2)[1].decode())

                sink.sendall(data)

        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
