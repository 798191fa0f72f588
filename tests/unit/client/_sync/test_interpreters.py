"""The commands that each interpreter executes."""

from typing import get_args

from sidecard_client._async.calls import AsyncExecution
from sidecard_client._async.streams import AsyncStreamExecution
from sidecard_client._sync.calls import Execution
from sidecard_client._sync.streams import StreamExecution
from sidecard_client.call.commands import Command, Give, GoOn, NextReply, Open, Pull

COMMANDS = set(get_args(Command))
STREAMS = {Open, Pull, NextReply}
HANDED_OVER = {Give, GoOn}
DRIVEN = {Open, Pull}
"""Commands that run the function: the blocking client executes them without its lock."""


def test_the_interpreters_of_calls_execute_every_command_of_a_call() -> None:
    """Commands of streams do not reach them."""
    expected = COMMANDS - STREAMS - HANDED_OVER
    assert set(Execution.handlers) == expected
    assert set(AsyncExecution.handlers) | set(AsyncExecution.waiting_handlers) == expected


def test_the_interpreters_of_streams_execute_every_command_but_those_of_the_caller() -> None:
    """`Give` and `GoOn` are handed over to the stream."""
    assert set(StreamExecution.handlers) == COMMANDS - HANDED_OVER - DRIVEN
    assert set(AsyncStreamExecution.handlers) | set(AsyncStreamExecution.waiting_handlers) == COMMANDS - HANDED_OVER
