"""What the bench of eviction reads, how it measures, and what it draws."""

import gzip
import json
import xml.etree.ElementTree as ET
from itertools import product
from pathlib import Path

import pytest

from sidecard.cli import NOT_FINE, USAGE, main
from sidecard.cli.bench import eviction as bench
from sidecard.cli.bench import eviction_peers as peers
from sidecard.cli.bench import eviction_traces as traces
from sidecard.cli.bench.eviction import BOUND, Found
from sidecard.cli.bench.eviction_peers import OURS, PAPERS, Peer
from sidecard.cli.bench.eviction_picture import picture
from sidecard.cli.bench.eviction_traces import Call, Workload
from sidecard.errors import SidecardError


def calls(text: str, size: int = 100, dollars: float = 1.0) -> list[Call]:
    """Return a call for each letter, which is its key."""
    return [Call(letter, size, dollars) for letter in text]


def test_made_workload_is_the_same_each_time_and_another_with_another_seed() -> None:
    """Figures of two runs can be compared."""
    assert traces.made(calls=100) == traces.made(calls=100)
    assert traces.made(calls=100) != traces.made(seed=2, calls=100)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines_give_requests_and_blocks(tmp_path: Path, suffix: str) -> None:
    """A request is known by its blocks and its length; a block has the lengths of who first had it."""
    requests = [
        {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]},
        {"timestamp": 1, "input_length": 1001, "output_length": 20, "hash_ids": [0, 1]},
        {"timestamp": 2, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]},
    ]
    text = "\n".join(json.dumps(request) for request in requests)
    path = tmp_path / f"chat.jsonl{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    whole, blocks = traces.read(path)

    assert (whole.name, blocks.name) == ("chat, requests", "chat, blocks")
    first, second, third = whole.calls
    assert first == third != second
    assert first == Call("1000 [0, 1]", 300 + 40, pytest.approx(0.0026))  # type: ignore[arg-type]  # compares as a float
    assert [call.key for call in blocks.calls] == ["block 0", "block 1"] * 3
    assert len(set(blocks.calls)) == 2


def test_csv_draws_what_it_does_not_say(tmp_path: Path) -> None:
    """The same for one key, the same in each run, and not where there is a column."""
    path = tmp_path / "disk.csv"
    path.write_text("time,lbn\n1,7\n2,8\n3,7\n")
    (drawn,) = traces.read(path)
    assert drawn == traces.read(path)[0]
    assert drawn.calls[0] == drawn.calls[2] != drawn.calls[1]

    path.write_text("key,bytes,dollars\na,500,0.25\n")
    assert traces.read(path) == [Workload("disk", [Call("a", 500, 0.25)])]


@pytest.mark.parametrize("text", ["", "time,what\n1,2\n", '{"input_length": 5}\n', "key,bytes\na,many\n"])
def test_what_is_no_trace_is_told(tmp_path: Path, text: str) -> None:
    """With what would be one."""
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(SidecardError, match="cannot be read as a trace"):
        traces.read(path)


@pytest.mark.parametrize(
    ("text", "entries", "hits"),
    [("abab", 2, 2), ("abcabc", 2, 2), ("abcabc", 1, 1), ("aaaa", 1, 3), ("abc", 3, 0), ("abcdabcdab", 3, 5)],
)
def test_bound_is_what_the_best_choice_comes_to(text: str, entries: int, hits: int) -> None:
    """Counted by hand, and by trying all choices."""
    assert bench.bound(calls(text), 100 * entries + 99) == hits == best_of_all(text, entries)


def best_of_all(text: str, entries: int) -> int:
    """Try, at each call, to keep any set of what is there."""
    reached: dict[frozenset[str], int] = {frozenset(): 0}
    for letter in text:
        after: dict[frozenset[str], int] = {}
        for kept, hits in reached.items():
            there = sorted(kept | {letter})
            for chosen in product([False, True], repeat=len(there)):
                subset = frozenset(one for one, stays in zip(there, chosen, strict=True) if stays)
                if len(subset) <= entries:
                    after[subset] = max(after.get(subset, 0), hits + (letter in kept))

        reached = after

    return max(reached.values())


ALL: dict[str, Peer] = {OURS: peers.ours, **PAPERS}


@pytest.mark.parametrize("name", ALL)
def test_policies_keep_what_there_is_room_for(name: str) -> None:
    """All are caches: where all fits, each key is a miss once."""
    ask = ALL[name](100_000, 100)
    assert [ask(call) for call in calls("abcabcaabbcc")] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("name", ALL)
def test_policies_hold_no_more_than_they_may(name: str) -> None:
    """A loop over more keys than there is room for has misses in each round, and no policy beats the bound."""
    asked = calls("abcdefghijkl" * 20)
    ask = ALL[name](1000, 100)
    hits = sum(ask(call) for call in asked)
    assert hits <= bench.bound(asked, 1000)


@pytest.mark.parametrize("name", ALL)
def test_policies_refuse_what_is_larger_than_all_they_have(name: str) -> None:
    """It is a miss each time, and drives nobody out."""
    ask = ALL[name](1000, 100)
    assert not ask(Call("small", 100, 1.0))
    assert not any(ask(Call("large", 2000, 1.0)) for _ in range(3))
    assert ask(Call("small", 100, 1.0))


def test_sieve_and_s3_fifo_evict_as_their_papers_have_it() -> None:
    """SIEVE's hand leaves what was asked for where it is; S3-FIFO brings back a ghost to the main queue."""
    sieve = PAPERS["SIEVE"](300, 100)
    assert [sieve(call) for call in calls("abcadaeda")] == [
        *(False, False, False, True),  # a was asked for
        *(False, True),  # b leaves for d, the hand having passed a
        *(False, True, True),  # c leaves for e
    ]
    s3_fifo = PAPERS["S3-FIFO"](300, 100)
    assert [s3_fifo(call) for call in calls("abcdaefgha")] == [False] * 9 + [True]


@pytest.mark.parametrize("policy", [OURS, "GDSF"])
def test_policies_that_know_costs_keep_what_is_dear(policy: str) -> None:
    """A dear answer outlives ten cheap ones."""
    ask = ALL[policy](1000, 100)
    ask(Call("dear", 100, 1.0))
    for call in calls("abcdefghijklmnopqrst", dollars=0.01):
        ask(call)

    assert ask(Call("dear", 100, 1.0))


def found(policy: str, share: float, measure: bench.Measure = "hits") -> Found:
    """Return what a policy came to on one workload."""
    return Found("work", measure, 0.01, policy, share)


def test_missed_tells_where_a_library_is_better() -> None:
    """By more than the tolerance in hits, by anything in dollars; papers and bound do not count."""
    fine = [found(OURS, 0.3), found("lib", 0.305), found("GDSF", 0.5), found(BOUND, 0.6)]
    assert bench.missed(fine) == []
    assert bench.missed([found(OURS, 0.3), found("lib", 0.32)]) == [
        "work, hits, 1.0 % of the footprint: lib has 32.0 %, ours 30.0 %"
    ]
    assert len(bench.missed([found(OURS, 0.3, "dollars"), found("lib", 0.301, "dollars")])) == 1


def test_measure_has_both_forms_and_the_bound() -> None:
    """Dollars are shares of all that the calls would cost."""
    asked = [Call("dear", 1000, 9.0), Call("cheap", 1000, 1.0), Call("dear", 1000, 9.0), Call("cheap", 1000, 1.0)]
    results = bench.measure([Workload("work", asked)], {OURS: peers.ours}, budgets=(10.0,))
    assert results == [
        Found("work", "hits", 10.0, OURS, 0.5),
        Found("work", "hits", 10.0, BOUND, 0.5),
        Found("work", "dollars", 10.0, OURS, 0.5),
    ]


def test_table_marks_the_best_and_not_the_bound() -> None:
    """One table for each workload and measure."""
    text = bench.draw([found(OURS, 0.3), found("lib", 0.2), found(BOUND, 0.6), found(OURS, 0.4, "dollars")])
    rows = [line.split() for line in text.split("\n")]
    assert rows[0] == ["work:", "hits,", "all", "alike"]
    assert rows[2] == [OURS, "30.0", "%", "*"]
    assert rows[3] == ["lib", "20.0", "%"]
    assert rows[4][-2:] == ["60.0", "%"]
    assert rows[6] == ["work:", "dollars", "saved"]


def test_picture_is_whole_xml_with_a_line_for_each_policy() -> None:
    """Names may have any character."""
    drawn = picture([found(OURS, 0.3), found("<lib> & co", 0.2), found(BOUND, 0.6), found(OURS, 0.4, "dollars")])
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert len(lines) == 4
    assert {OURS, "<lib> & co", BOUND, "work: dollars saved"} <= texts
    assert lines[2].get("stroke-width") == "3.5"


def test_a_picture_of_nothing_is_a_slip_of_the_pen(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said which option is missing, before anything is measured."""
    assert main(["bench", "--picture", "x.svg"]) == USAGE
    assert "--eviction" in capsys.readouterr().err


def test_a_trace_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    pytest.importorskip("theine")
    assert main(["bench", "--eviction", str(tmp_path / "none.csv")]) == NOT_FINE
    assert "none.csv cannot be read (No such file or directory)" in capsys.readouterr().err
