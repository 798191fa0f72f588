"""What the requests of Google's APIs have in common. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from sidecard_client.http.family import ApiFamily, RequestTarget
from sidecard_client.http.request_bodies.json_family import JsonFamily

_MODEL: Final = re.compile(r"/(?:models|tunedModels|endpoints|dynamic)/([^/:]+):[A-Za-z]+/?$")
_CAPITAL: Final = re.compile(r"(?<=[a-z])([A-Z])")


class GoogleFamily(JsonFamily):
    """A method of a model of Google AI or Vertex AI, whose path ends in ``/models/NAME:method``."""

    def claims(self, target: RequestTarget) -> bool:
        """As `ApiFamily.claims`. The path must name a model, unless the app has declared the path."""
        return ApiFamily.claims(self, target) and (target.declared == self.name or bool(_model_in(target.path)))

    def model_of(self, target: RequestTarget, fields: dict[str, Any]) -> str | None:
        """Return the model in the path, else that of the body."""
        return _model_in(target.path) or super().model_of(target, fields)


def _model_in(path: str) -> str:
    """Return the model in a path such as ``/v1beta/models/NAME:generateContent``; empty if there is none."""
    found = _MODEL.search(path)
    return "" if found is None else unquote(found[1])


def either(fields: Mapping[str, Any], name: str) -> Any:
    """Return the field of this name in camel case, or of the same in snake case: Google's servers accept both."""
    return fields.get(name, fields.get(_CAPITAL.sub(lambda found: "_" + found[1].lower(), name)))


def are_contents(value: Any) -> bool:
    """Return whether a value is a message with parts, or a list of them."""
    messages = value if isinstance(value, list) else [value]
    return bool(messages) and all(
        isinstance(one, dict) and isinstance(one.get("parts"), list | dict) for one in messages
    )
