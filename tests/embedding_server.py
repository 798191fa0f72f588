"""A local server of OpenAI's and Ollama's embeddings that records what it is asked for."""

import base64
import json
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import LoopbackServer

DIGITS = "0.10000000149011612"
"""Not the shortest text of its number, as servers write those of 32 bits; a second parsing would shorten it."""


class EmbeddingServer:
    """A server of OpenAI's and Ollama's embeddings."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.bodies: list[bytes] = []
        self.refusal: tuple[int, bytes] | None = None
        self.reverse = False
        """Whether the items come in another order, as from vLLM."""
        self.leaves_out = 0
        """How many items are missing."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = server.answer(self.path, body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("x-request-id", f"r{len(server.asked)}")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None: ...

        self._server = LoopbackServer(Handler)
        self.url = self._server.url
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def texts(self) -> list[Any]:
        """All texts that were asked for."""
        return [text for texts in self.asked for text in texts]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer as the interface of ``path``."""
        fields = json.loads(body)
        given = fields["input"]
        texts = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        self.asked.append(texts)
        self.bodies.append(body)
        if self.refusal is not None:
            return self.refusal

        if path == "/api/embed":
            vectors = ",".join(f"[{DIGITS},{len(text)}.0]" for text in texts)
            tokens = sum(map(tokens_of, texts))
            return (
                200,
                f'{{"model":"m","embeddings":[{vectors}],"total_duration":1001,"prompt_eval_count":{tokens}}}'.encode(),
            )

        items = [self._item(index, text, fields) for index, text in enumerate(texts)][self.leaves_out :]
        if self.reverse:
            items.reverse()

        tokens = sum(map(tokens_of, texts))
        usage = f'{{"prompt_tokens": {tokens}, "total_tokens": {tokens}}}'
        return 200, f'{{"object": "list", "data": [{",".join(items)}], "model": "m-1", "usage": {usage}}}'.encode()

    @staticmethod
    def _item(index: int, text: Any, fields: dict[str, Any]) -> str:
        if fields.get("encoding_format") == "base64":
            vector = json.dumps(base64.b64encode(struct.pack("<3f", 0.1, len(text), mark_of(text))).decode())
        else:
            vector = f"[{DIGITS}, {len(text)}.0, {mark_of(text)}]"

        return f'{{"object": "embedding", "index": {index}, "embedding": {vector}}}'


def tokens_of(text: Any) -> int:
    """Return a number of tokens."""
    return max(1, len(text))


def mark_of(text: Any) -> int:
    """Return a number that hardly another text has."""
    return zlib.crc32(repr(text).encode()) >> 8
