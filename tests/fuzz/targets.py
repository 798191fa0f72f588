"""All targets by name."""

from tests.fuzz.wire_targets import WIRE_TARGETS

TARGETS = {target.name: target for target in (*WIRE_TARGETS,)}
