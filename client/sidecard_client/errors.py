"""The errors of the client, under their public path; they are defined in `sidecard_client.protocol.errors`."""

from sidecard_client.protocol.errors import *  # noqa: F403 - exactly its names
