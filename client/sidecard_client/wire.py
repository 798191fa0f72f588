"""The protocol's messages, under the public name of 0.1.0; see `sidecard_client.protocol.wire`."""

from sidecard_client.protocol.wire import *  # noqa: F403 - the same names, whatever they are
