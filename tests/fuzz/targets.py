"""All targets by name."""

from tests.fuzz.file_targets import FILE_TARGETS
from tests.fuzz.http_targets import HTTP_TARGETS
from tests.fuzz.setting_targets import SETTING_TARGETS
from tests.fuzz.view_targets import VIEW_TARGETS
from tests.fuzz.wire_targets import WIRE_TARGETS

TARGETS = {
    target.name: target for target in (*WIRE_TARGETS, *SETTING_TARGETS, *FILE_TARGETS, *HTTP_TARGETS, *VIEW_TARGETS)
}
