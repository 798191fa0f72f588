"""Transports for httpx2 and httpx that share the calls of SDKs."""

from sidecard_client.http.interception import IncompleteAnswer, Keep
from sidecard_client.http.translation import UpstreamRefused
from sidecard_client.http.transports import AsyncSidecardTransport, SidecardTransport

__all__ = ["AsyncSidecardTransport", "IncompleteAnswer", "Keep", "SidecardTransport", "UpstreamRefused"]
