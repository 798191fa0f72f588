"""The import paths and names of 0.1.0 keep working."""

import pytest

import sidecard_client.errors
import sidecard_client.wire
from sidecard_client.protocol import errors, wire

MESSAGES_OF_0_1_0 = """
Aggregate AnyReply AnyRequest Append BackendSpending BackendState Begin BreakerAction BreakerState
Breakers BudgetState Cancel Chunk Complete Count DEFAULT_BACKEND DEFAULT_NAMESPACE DEFAULT_TASK
Delete Deleted Dollars End EntryState Error ErrorCode Exemplar Explain Explained
FINAL_REPLIES_OF_BEGIN FRAME_HEADER_BYTES Fail Failed FailureKind Family Get GetBreakers GetConfig
GetHealth GetMetrics GetReport GetStats Health Hit Key LOCAL_BACKENDS Lease Ledger Locality LogLevel
MAX_DIMENSIONS MAX_FRAME_BYTES MAX_LINE_BYTES MAX_MEASUREMENTS Measurement MetricKind Metrics Miss
Mode NO_VALUE Name Namespace Note Ok PROTOCOL_VERSION Pending Ping PolicyValue Pong Purge Put
RecordMetrics Recorded Rejected RejectionReason Reload Reloaded Renew Reply Report Request RequestId
Route Sample Seconds SetBreaker SetLog Settings Shared Spoken StaleLease Stats StoreState Stored
StreamSource Tags Text Timeout Trace Usage VectorBytes VectorNumbers VectorWanted Watch is_local
pack tag_of unpack_reply unpack_request
"""

ERRORS_OF_0_1_0 = """
CallFailed CallRejected CallTimeout DaemonUnavailable FramingError ProtocolError RequestRefused
SidecardError SidecardWarning UnkeyableRequest UnshareableValue
"""

RENAMED = {"Spoken": "Transcript"}


@pytest.mark.parametrize("name", MESSAGES_OF_0_1_0.split())
def test_each_message_is_importable_from_the_path_of_0_1_0(name: str) -> None:
    """`sidecard_client.wire` has every public name of 0.1.0, and it is the one that the client itself uses."""
    assert getattr(sidecard_client.wire, name) is getattr(wire, RENAMED.get(name, name))


@pytest.mark.parametrize("name", ERRORS_OF_0_1_0.split())
def test_each_error_is_importable_from_the_path_of_0_1_0(name: str) -> None:
    """`sidecard_client.errors` has every public name of 0.1.0, and it is the one that the client itself raises."""
    assert getattr(sidecard_client.errors, name) is getattr(errors, name)
