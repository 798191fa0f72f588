"""The errors of the client, under the public name of 0.1.0; see `sidecard_client.protocol.errors`."""

from sidecard_client.protocol.errors import *  # noqa: F403 - the same names, whatever they are
