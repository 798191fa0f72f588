"""The simulated provider as a process: ``python -m tests.bench.prefixes.agents.server SCALE`` prints its URL.

It speaks Anthropic's messages API, streamed, and runs ``SCALE`` times as fast as the provider. It exits when its standard input is
closed.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any, ClassVar

from sidecard_client.protocol.values import BYTES_PER_TOKEN
from tests.bench.prefixes.agents.provider import Answered, Provider, Turn

BACKLOG = 128


class _Listener(ThreadingHTTPServer):
    request_queue_size = BACKLOG
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: ClassVar[Provider] = Provider()
    lock: ClassVar[threading.Lock] = threading.Lock()
    scale: ClassVar[float]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = turn_of(body)
        with self.lock:
            at = monotonic() * self.scale
            answered = self.provider.call(turn, at)

        self._sleep_until(answered.first_output_at)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        first, last = events(answered, body["model"])
        self._send(first)
        self._sleep_until(answered.ends_at)
        self._send(last)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def _sleep_until(self, at: float) -> None:
        sleep(max(0.0, at / self.scale - monotonic()))

    def _send(self, some: list[dict[str, Any]]) -> None:
        data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in some).encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def turn_of(body: dict[str, Any]) -> Turn:
    """Return what the provider's cache sees of a request: the prefixes up to each block of the system text and each message."""
    texts = [block["text"] for block in body["system"]]
    texts += [block["text"] for message in body["messages"] for block in message["content"]]
    digest, length = hashlib.sha256(), 0
    prefix, tokens = [], []
    for text in texts:
        digest.update(text.encode() + b"\0")
        length += len(text)
        prefix.append(digest.hexdigest())
        tokens.append(length // BYTES_PER_TOKEN)

    return Turn(tuple(prefix), tuple(tokens), body["max_tokens"], 0.0)


def events(answered: Answered, model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the events of an answer: those of its first output, and the rest."""
    usage = {
        "input_tokens": answered.plain_tokens,
        "cache_creation_input_tokens": answered.written_tokens,
        "cache_read_input_tokens": answered.read_tokens,
        "output_tokens": 1,
    }
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "done"}},
    ], [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": answered.output_tokens}},
        {"type": "message_stop"},
    ]


def main() -> None:
    """Serve until standard input ends."""
    _Handler.scale = float(sys.argv[1])
    with _Listener(("127.0.0.1", 0), _Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{listener.server_port}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
