"""What the requests of Amazon Bedrock have in common. Pure."""

import re
from typing import Any, Final
from urllib.parse import unquote

from sidecard_client.http.family import ApiFamily, RequestTarget
from sidecard_client.http.request_bodies.json_family import JsonFamily

_HOST: Final = re.compile(
    r"(vpce-[\w-]+\.)?bedrock-runtime(-fips)?\.[a-z0-9-]+\.(vpce\.)?(amazonaws\.com(\.cn)?|api\.aws)"
)
_MODEL: Final = re.compile(r"/model/([^/]+)/[a-z-]+/?$")
_NAME: Final = re.compile(r"([a-z-]+\.)?[a-z0-9-]+\.[\w.:-]+")
"""``anthropic.claude-5-v1:0``, also with a region in front."""
_ARN: Final = re.compile(r"arn:aws[\w-]*:(bedrock|sagemaker):.+")


class BedrockFamily(JsonFamily):
    """An operation on a model, whose path is ``/model/NAME/operation``."""

    def claims(self, target: RequestTarget) -> bool:
        """As `ApiFamily.claims`. The path must have a model, whose name has Amazon's form unless the host is Amazon's."""
        model = _model_in(target.path)
        known = bool(_HOST.fullmatch(target.hostname) or _NAME.fullmatch(model) or _ARN.fullmatch(model))
        return ApiFamily.claims(self, target) and (target.declared == self.name or (bool(model) and known))

    def model_of(self, target: RequestTarget, fields: dict[str, Any]) -> str | None:
        """Return the model in the path."""
        return _model_in(target.path) or super().model_of(target, fields)


def _model_in(path: str) -> str:
    found = _MODEL.search(path)
    return "" if found is None else unquote(found[1])
