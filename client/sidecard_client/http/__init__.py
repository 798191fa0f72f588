"""Transports for httpx2 and httpx that share the calls of SDKs."""

from sidecard_client.http.transports import (
    AsyncSidecardTransport,
    IncompleteAnswer,
    SidecardTransport,
    UpstreamRefused,
)

__all__ = ["AsyncSidecardTransport", "IncompleteAnswer", "SidecardTransport", "UpstreamRefused"]
