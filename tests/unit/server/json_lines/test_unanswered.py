"""Whether a JSON-lines peer still waits for replies."""

from sidecard.server.json_lines.unanswered import UnansweredRequests
from sidecard_client.protocol import wire


def test_each_reply_answers_one_request_of_its_id() -> None:
    """Ids may be left out in JSON, so several requests can share one."""
    unanswered = UnansweredRequests()
    for _ in range(3):
        unanswered.begin(wire.Ping(id=0))
        unanswered.end(wire.Ping(id=0))

    states = []
    for _ in range(3):
        unanswered.reply(wire.Ok(0))
        states.append(bool(unanswered))

    assert states == [True, True, False]
