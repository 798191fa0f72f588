"""Families whose requests are forms with files, or JSON objects with the same fields. Pure."""

from typing import Any, Final

from msgspec import structs

from sidecard_client.http.family import ApiRequest, RequestTarget
from sidecard_client.http.request_bodies.form import form_of
from sidecard_client.http.request_bodies.json_family import JsonFamily

FORM: Final = "multipart/form-data"
_MAX_DIGITS: Final = 9
_TRUE: Final = ("true", "True", "1")
"""A tuple, because the value of a repeated field is a list."""


class FormFamily(JsonFamily):
    """A `JsonFamily` that also takes forms, in which numbers and truth values are texts."""

    def takes(self, media_type: str) -> bool:
        """As `JsonFamily.takes`, or a form."""
        return media_type == FORM or super().takes(media_type)

    def fields_of(self, target: RequestTarget, body: bytes) -> dict[str, Any] | None:
        """Return the fields of a form, or of a JSON object."""
        return form_of(target.content_type, body) if target.media_type == FORM else super().fields_of(target, body)

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`."""
        asked = super().read(target, body)
        if asked is None or asked.body.get("stream") not in _TRUE:
            return asked

        return structs.replace(asked, stream=True)


def number_in(value: Any) -> int:
    """Return a number of answers, which a form has as text; 1 if it is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:_MAX_DIGITS])

    return value if type(value) is int and value > 0 else 1
