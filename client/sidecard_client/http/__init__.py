"""The transport for httpx2 and httpx that shares the calls of SDKs."""

from sidecard_client.http.interception import Keep
from sidecard_client.http.transports import AsyncSidecardTransport, SidecardTransport

__all__ = ["AsyncSidecardTransport", "Keep", "SidecardTransport"]
