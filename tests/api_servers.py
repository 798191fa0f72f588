"""A local server of many APIs: it answers each request with the sample of its path, as the provider would."""

import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import unquote

from sidecard_client.http.family import RequestTarget
from sidecard_client.http.recognition import recognize
from tests.api_samples import EVENT_STREAM, EVENTS, JSON, JSON_LINES, SAMPLES, Sample
from tests.loopback import LoopbackServer

STREAMS = frozenset({EVENTS, JSON_LINES, EVENT_STREAM})


class ApiServer:
    """Serves on a loopback port. A streamed answer comes in chunks that are no events of their own."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.refusals: list[tuple[int, bytes]] = []
        """Statuses and bodies of the next answers, one each."""
        self.cuts = 0
        """How many of the next answers break in their middle."""
        self.permits: threading.Semaphore | None = None
        """If set, each chunk of a stream takes one."""
        api = self

        class Handler(_Handler):
            """Answers for this server."""

            served = api

        self._server = LoopbackServer(Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    @property
    def count(self) -> int:
        """How often it was asked."""
        return len(self.asked)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def sample_for(path: str, body: bytes, content_type: str) -> Sample | None:
    """Return the sample of a request's path and kind of answer; of several, the one with its model and most of its fields."""
    target = RequestTarget.of("POST", f"http://127.0.0.1{path}", content_type)
    found = None if target is None else recognize(target, body)
    if target is None or found is None:
        return None

    _, asked = found
    streams = asked.stream and (not target.path.endswith(":streamGenerateContent") or "alt=sse" in target.query)
    fitting = [
        sample
        for sample in SAMPLES.values()
        if _place_of(sample.path) == _place_of(target.path) and (sample.answer_type in STREAMS) == streams
    ]
    names = set(asked.body) if isinstance(asked.body, dict) else set()
    return max(
        fitting,
        key=lambda sample: (sample.body == body, sample.model == asked.model, len(names & set(sample.asked))),
        default=None,
    )


def _place_of(path: str) -> str:
    """Return a path without the API's version where that is not the provider's."""
    return re.sub(r"^/v1(beta1?)?/models/", "/models/", unquote(path))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: ApiServer

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        """Answer with a sample."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.served.asked.append((self.path, body))
        self.served.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.served.refusals:
            self._send(*self.served.refusals.pop(0))
            return

        sample = sample_for(self.path, body, self.headers.get("content-type", JSON))
        if sample is None:
            self._send(404, b'{"error": {"code": 404, "message": "no such sample"}}')
        elif sample.answer_type in STREAMS:
            self._stream(sample)
        else:
            self._send(200, sample.answer, sample.answer_type)

    def _breaks(self) -> bool:
        if self.served.cuts == 0:
            return False

        self.served.cuts -= 1
        self.close_connection = True
        return True

    def _send(self, status: int, content: bytes, content_type: str = JSON) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self._breaks() else content)

    def _stream(self, sample: Sample) -> None:
        self.send_response(200)
        self.send_header("Content-Type", sample.answer_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        size = 1 + len(sample.answer) // 3
        breaks = self._breaks()
        for start in range(0, 2 * size if breaks else len(sample.answer), size):
            if self.served.permits is not None:
                self.served.permits.acquire()

            piece = sample.answer[start : start + size]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")

        if not breaks:
            self.wfile.write(b"0\r\n\r\n")
