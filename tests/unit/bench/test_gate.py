"""The bench gate and its recording, with made-up numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from sidecard.cli.bench.rows import Effort, Row
from tests.bench import gate
from tests.bench.gate import RECORD_COMMAND, Recorded, Recording, check, is_worse, read_recording
from tests.bench.record import record

TIME = {"hit": Recorded(2.0)}
EFFORT = Effort()


class Script:
    """A source that returns given values of one or more rows, one repetition after another."""

    def __init__(self, *repetitions: Sequence[Row]) -> None:
        self.name = "script"
        self.left: Iterator[Sequence[Row]] = iter(repetitions)
        self.measured = 0

    def measure(self, _: Effort) -> list[Row]:
        """Return the rows of the next repetition."""
        self.measured += 1
        return list(next(self.left))


def times(*values: float, what: str = "hit") -> Script:
    """Return a source with one time ratio."""
    return Script(*([Row(what, 1.0, value)] for value in values))


@pytest.mark.parametrize(
    ("row", "recorded", "worse"),
    [
        (Row("time", 1.0, 2.5), Recorded(2.0), False),
        (Row("time", 1.0, 2.51), Recorded(2.0), True),
        (Row("time", 1.0, 0.1), Recorded(2.0), False),
        (Row("rate", 1.0, 1.5, at_least=True), Recorded(2.0, at_least=True), False),
        (Row("rate", 1.0, 1.49, at_least=True), Recorded(2.0, at_least=True), True),
        (Row("rate", 1.0, 9.0, at_least=True), Recorded(2.0, at_least=True), False),
        (Row("time", 1.0, 1.0, fault="two calls for one key"), Recorded(2.0), True),
        (Row("time", 1.0, missing="no Redis"), Recorded(2.0), False),
        (Row("seconds", 1.0, 0.9, unit="s"), None, False),
        (Row("seconds", 1.0, 1.1, unit="s"), None, True),
        (Row("seconds", 1.0, 0.9, unit="s", fault="too few hits"), None, True),
        (Row("new", 1.0, 1.1), None, False),
    ],
)
def test_worse_means_more_than_a_quarter_in_the_bad_direction(row: Row, recorded: Recorded | None, worse: bool) -> None:
    """Times get worse upwards, rates downwards; a fault is always worse, and a missing tool never. Seconds have only a target."""
    assert is_worse(row, recorded) is worse


def test_three_worse_repetitions_fail() -> None:
    """The sentence has all measured values and the recorded one."""
    assert check([times(2.6, 3.0, 2.7)], TIME, EFFORT) == ["hit: 2.6, 3, 2.7 in 3 repetitions; recorded 2"]


@pytest.mark.parametrize("values", [(2.0,), (2.6, 2.4), (9.0, 9.0, 2.5)])
def test_one_good_repetition_passes_and_ends_the_measurement(values: tuple[float, ...]) -> None:
    """A source without a ratio that was always worse is not measured again."""
    source = times(*values)
    assert check([source], TIME, EFFORT) == []
    assert source.measured == len(values)


def test_a_ratio_that_gets_worse_only_later_passes() -> None:
    """A ratio must be worse in all three repetitions; another ratio of its source causes the later ones."""
    source = Script(
        [Row("hit", 1.0, 2.0), Row("miss", 1.0, 9.0)],
        [Row("hit", 1.0, 9.0), Row("miss", 1.0, 9.0)],
        [Row("hit", 1.0, 9.0), Row("miss", 1.0, 9.0)],
    )
    failures = check([source], {"hit": Recorded(2.0), "miss": Recorded(2.0)}, EFFORT)
    assert [failure.split(":")[0] for failure in failures] == ["miss"]


def test_repetitions_are_interleaved() -> None:
    """A repetition measures every suspicious source before the next repetition begins."""
    lines: list[str] = []
    sources = [times(9, 9, 9, what="one"), times(9, 9, 9, what="other")]
    sources[0].name, sources[1].name = "one", "other"
    failures = check(sources, {"one": Recorded(1.0), "other": Recorded(1.0)}, EFFORT, lines.append)
    measured = [line.split()[1].rstrip(",") for line in lines if line.startswith("measuring")]
    assert measured == ["one", "other"] * 3
    assert len(failures) == 2


def test_an_unrecorded_ratio_is_reported_and_passes() -> None:
    """It can only be compared once it is recorded."""
    lines: list[str] = []
    assert check([times(2.0, what="new")], {}, EFFORT, lines.append) == []
    assert any(line.startswith("not recorded: new") and RECORD_COMMAND in line for line in lines)


def test_a_recorded_ratio_that_disappeared_fails() -> None:
    """A renamed ratio must be recorded again; one that lacks its software has not disappeared."""
    missing = Script([Row("redis", 1.0, missing="no Redis")])
    recorded = {"redis": Recorded(1.0), "old": Recorded(1.0)}
    assert check([missing], recorded, EFFORT) == ["old: recorded, but no longer measured"]


def test_seconds_are_compared_with_their_target() -> None:
    """They are not recorded, which is not reported: another machine is slower or faster."""
    lines: list[str] = []
    seconds = Script(*([Row("seconds", 1.0, value, unit="s")] for value in (1.1, 1.3, 1.2)))
    assert check([seconds], {}, EFFORT, lines.append) == ["seconds: 1.1, 1.3, 1.2 in 3 repetitions; above its target"]
    assert not any(line.startswith("not recorded") for line in lines)


def test_recording_takes_the_median_and_omits_faults_and_seconds() -> None:
    """The result has four significant digits and is sorted by name."""
    source = Script(
        [Row("b", 1.0, 1.23456, at_least=True), Row("a", 1.0, 5.0), Row("seconds", 1.0, 0.2, unit="s")],
        [Row("b", 1.0, 9.0, at_least=True), Row("a", 1.0, missing="tool")],
        [Row("b", 1.0, 0.5, at_least=True), Row("a", 1.0, 1.0, fault="wrong")],
    )
    shown: list[Row] = []
    recording = record([source], EFFORT, "machine", shown.extend)
    assert recording == Recording(RECORD_COMMAND, "machine", {"a": Recorded(5.0), "b": Recorded(1.235, at_least=True)})
    assert list(recording.ratios) == ["a", "b"]
    assert [(row.what, row.measured) for row in shown] == [("b", 0.5), ("a", 5.0)]


def test_the_shipped_recording_is_valid(tmp_path: Path) -> None:
    """The file names the command that records again, and survives a round trip."""
    recording = read_recording()
    assert recording.command == RECORD_COMMAND
    copy = tmp_path / gate.RECORDED.name
    copy.write_bytes(msgspec.json.encode(recording))
    assert read_recording(copy) == recording
