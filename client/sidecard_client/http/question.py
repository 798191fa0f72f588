"""The text of an intercepted request that may differ in similar requests. Pure."""

from sidecard_client.http.request import LlmRequest
from sidecard_client.keys.vectors import FoundText


def question_of(request: LlmRequest) -> tuple[str, FoundText] | None:
    """Return the name in the request's key, and its text; None if it has none."""
    question = request.family.question(request.asked)
    if question is None:
        return None

    parts = {**request.parts, "body": question.rest}
    return request.key_name, FoundText(question.text, f"body.{question.place}", (), parts)
