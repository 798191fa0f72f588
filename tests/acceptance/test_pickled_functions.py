"""Cached functions in other processes: of pools with every start method, and of what cloudpickle sends."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import Daemon

PROGRAM = """
import asyncio, logging, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from sidecard_client import AsyncClient, Client

logging.getLogger("asyncio").setLevel(logging.ERROR)  # without what the debug mode finds slow

blocking, awaiting = Client(), AsyncClient()

@blocking.cached()
def answer(question):
    return f"{question} {os.getpid()}"

@awaiting.cached()
async def answer_later(question):
    return f"{question} {os.getpid()}"

class Bot:
    def __init__(self, name):
        self.name = name

    @blocking.cached()
    def ask(self, question):
        return f"{question} {os.getpid()}"

    @classmethod
    @blocking.cached()
    def of_class(cls, question):
        return f"{question} {os.getpid()}"

    @staticmethod
    @blocking.cached()
    def static(question):
        return f"{question} {os.getpid()}"

def wait_for_answer(question):
    return asyncio.run(answer_later(question))

def work(client, question):
    return client.call(lambda: f"{question} {os.getpid()}", key=question)

FUNCTIONS = [answer, wait_for_answer, Bot("a").ask, Bot.of_class, Bot.static]

if __name__ == "__main__":
    if sys.argv[1] == "cloudpickle":
        import cloudpickle
        sys.stdout.buffer.write(cloudpickle.dumps([answer, Bot("a").ask, Bot.of_class, Bot.static]))
        sys.exit()

    answers = set()
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            for number, function in enumerate(FUNCTIONS):
                answers.update((number, value) for value in pool.map(function, ["a", "b", "a", "b"]))

            answers.update(("client", value) for value in pool.starmap(work, [(blocking, "c")] * 2))

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        answers.update(enumerate(executor.map(answer, "a")))

    assert not any(value.endswith(f" {os.getpid()}") for _, value in answers), answers
    print(len(answers))
"""

LOADS = """
import pickle, sys
functions = pickle.loads(sys.stdin.buffer.read())
print([function("q") == function("q") for function in functions])
"""


@pytest.fixture
def program(daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the program, and start a daemon for it."""
    monkeypatch.setenv("SIDECARD_SOCKET", daemon().socket)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_pools_of_every_kind_share_cached_functions_and_clients(program: Path) -> None:
    """Each question is answered once, by one worker of six: the functions are found by name, and clients made anew."""
    result = subprocess.run(
        [sys.executable, "-X", "dev", str(program), "pools"], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.stdout == "11\n"


@pytest.mark.skipif(importlib.util.find_spec("cloudpickle") is None, reason="cloudpickle is not installed")
def test_cloudpickle_sends_cached_functions_to_processes_without_the_program(program: Path) -> None:
    """As notebooks and joblib do: by value, with clients of their own."""
    sent = subprocess.run([sys.executable, str(program), "cloudpickle"], stdout=subprocess.PIPE, check=True).stdout
    result = subprocess.run([sys.executable, "-c", LOADS], input=sent, capture_output=True, check=False, cwd="/")
    assert (result.stdout, result.stderr) == (b"[True, True, True, True]\n", b"")
