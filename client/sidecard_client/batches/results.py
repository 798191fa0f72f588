"""Divide the result of an upstream call among its inputs."""

from collections.abc import Callable, Sequence
from typing import Any

from sidecard_client.batches.batch import InputBatch, answers_of, usage_shares
from sidecard_client.batches.member import Member
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.failures import kind_of
from sidecard_client.call.usage import read_usage
from sidecard_client.protocol import wire


class UpstreamResults:
    """Divides the results of a batch's upstream calls, and classifies their failures."""

    def __init__(self, batch: InputBatch) -> None:
        self._options = batch.calls[0].options
        self._shared_error: BaseException | None = None

    def divide(
        self, function: Callable[..., Any], result: Returned | Raised, group: Sequence[Member]
    ) -> Sequence[Returned | Raised]:
        """Return the result of each input. A common failure of several inputs does not show which of them is at fault."""
        if isinstance(result, Returned):
            try:
                answers = answers_of(function, result.value, len(group))
            except Exception as error:  # noqa: BLE001 - iterating over a user's object may raise anything
                result = Raised(error.with_traceback(None))
            else:
                usage = read_usage(self._options, result.value, function)
                # Not those of the call: the function may have changed its list.
                inputs = [member.call.args[0] for member in group]
                for member, share in zip(group, usage_shares(usage, inputs), strict=True):
                    member.usage = share

                return list(map(Returned, answers))

        self._shared_error = result.error if len(group) > 1 else None
        return [result] * len(group)

    def classify(self, error: BaseException) -> wire.FailureKind:
        """Classify a common fatal failure of several inputs as ``cancelled``: any of them may be at fault.

        So the other callers of each input make their own calls, and no failure is remembered.
        """
        kind = kind_of(error, self._options.classify)
        return "cancelled" if kind == "fatal" and error is self._shared_error else kind
