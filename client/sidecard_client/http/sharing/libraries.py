"""What can be shared: HTTP clients of httpx and httpx2, and botocore's of Bedrock, recognized without importing the libraries."""

import sys
from typing import Any, Final

LIBRARIES: Final = ("httpx2", "httpx")


def http_client_classes() -> tuple[type, ...]:
    """Return the classes of both kinds of clients, of the libraries that the process has imported."""
    return tuple(getattr(sys.modules[name], kind) for name in LIBRARIES if name in sys.modules for kind in _KINDS)


def is_async(client: Any) -> bool:
    """Return whether an HTTP client is asynchronous."""
    return any(isinstance(client, sys.modules[name].AsyncClient) for name in LIBRARIES if name in sys.modules)


def is_bedrock_client(value: object) -> bool:
    """Return whether an object is a client of botocore's for calls to Bedrock's models. Those of aiobotocore are not."""
    module = sys.modules.get("botocore.client")
    if module is None or not isinstance(value, module.BaseClient):
        return False

    if any(kind.__module__.startswith("aiobotocore.") for kind in type(value).__mro__):
        return False

    return bool(value.meta.service_model.service_name == BEDROCK)


BEDROCK: Final = "bedrock-runtime"
"""The name of the service, for boto3."""

_KINDS: Final = ("Client", "AsyncClient")
