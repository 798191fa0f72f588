"""The protocol's messages, under their public path; they are defined in `sidecard_client.protocol`."""

from sidecard_client.protocol.requests import Transcript
from sidecard_client.protocol.wire import *  # noqa: F403 - exactly its names

Spoken = Transcript
"""Its name in 0.1.0."""
