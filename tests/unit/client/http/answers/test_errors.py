"""Errors inside answers: of the request, or of the server."""

from typing import Any

import pytest

from sidecard_client.http.answers.errors import in_band_error, kind_of_status


@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": "x"},
        {"code": "404"},
        {"status": 413, "type": "server_error"},
        {"code": "context_length_exceeded", "type": "invalid_request_error"},
        {"type": "invalid_request_error"},
        {"type": "request_too_large"},
        {"type": "not_found_error"},
        {"type": "authentication_error"},
        {"type": "permission_error"},
        {"type": "billing_error"},
        {"code": "model_not_found"},
        {"code": "string_above_max_length"},
        {"code": "unsupported_value"},
        {"code": "unknown_parameter"},
        {"code": "content_filter"},
        {"code": "invalid_prompt"},
        {"code": "image_content_policy_violation"},
        {"code": 400, "type": "exceed_context_size_error"},
        {"type": "BadRequestError"},
        {"type": "UnprocessableEntityError"},
        {"status": "INVALID_ARGUMENT"},
        {"message": "This model's maximum context length is 8192 tokens."},
        {"code": None, "type": None, "message": "prompt is too long: 210000 tokens"},
        {"error": {"code": 400}},
        "model 'nope' not found",
        "the input length exceeds the context length",
    ],
)
def test_errors_that_the_request_caused(error: Any) -> None:
    """An equal request would meet them again."""
    assert in_band_error(error).origin == "request_error"


@pytest.mark.parametrize(
    "error",
    [
        {"code": 500, "type": "invalid_request_error"},
        {"code": 429, "message": "invalid"},
        {"code": "503"},
        {"code": 409},
        {"type": "overloaded_error"},
        {"type": "api_error"},
        {"type": "timeout_error"},
        {"type": "rate_limit_error"},
        {"type": "tokens", "code": "rate_limit_exceeded"},
        {"code": "server_error"},
        {"code": "insufficient_quota"},
        {"code": "vector_store_timeout"},
        {"code": "failed_to_download_image"},
        {"type": "InternalServerError"},
        {"type": "ServiceUnavailableError"},
        {"status": "RESOURCE_EXHAUSTED"},
        {"type": "never_heard_of"},
        {"message": "something broke"},
        {"code": 7},
        {},
        "unexpected EOF",
        "an error was encountered while running the model",
        True,
        7,
        ["a"],
        {"code": ["a"], "type": {"b": 1}, "message": {"c": 1}},
    ],
)
def test_other_errors_are_the_servers(error: Any) -> None:
    """Any other error counts as the server's, unknown ones included."""
    assert in_band_error(error).origin == "server_error"


def test_an_error_is_described_by_its_code() -> None:
    """The description is short, because reports show it."""
    assert in_band_error({"type": "a", "code": "b", "message": "c"}).description == "b"
    assert in_band_error({"message": "c"}).description == "c"
    assert len(in_band_error("x" * 10_000).description) == 80


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (201, None),
        (302, "ignored"),
        (400, "fatal"),
        (401, "fatal"),
        (404, "fatal"),
        (408, "transient"),
        (409, "transient"),
        (425, "transient"),
        (429, "transient"),
        (500, "transient"),
        (529, "transient"),
    ],
)
def test_the_status_decides_the_failure_kind(status: int, kind: str | None) -> None:
    """Statuses that SDKs retry are transient."""
    assert kind_of_status(status) == kind
