"""The eviction bench: traces, policies, measurements and output."""

import gzip
import json
import xml.etree.ElementTree as ET
from itertools import product
from pathlib import Path

import pytest

from sidecard.errors import SidecardError
from tests.bench.eviction import __main__ as command
from tests.bench.eviction import comparison, picture, policies, traces
from tests.bench.eviction.comparison import BOUND, Measure, Share
from tests.bench.eviction.policies import OURS, PAPERS, Policy
from tests.bench.eviction.traces import Call, Workload


def calls(text: str, size: int = 100, dollars: float = 1.0) -> list[Call]:
    """Return a call for each letter, which is its key."""
    return [Call(letter, size, dollars) for letter in text]


def test_generated_workload_depends_only_on_the_seed() -> None:
    """Two runs measure the same workload."""
    assert traces.generate(calls=100) == traces.generate(calls=100)
    assert traces.generate(calls=100) != traces.generate(seed=2, calls=100)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines_give_requests_and_blocks(tmp_path: Path, suffix: str) -> None:
    """Requests with equal blocks and lengths are equal; a block has the lengths of its first request."""
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


def test_csv_without_sizes_and_costs_gets_random_ones(tmp_path: Path) -> None:
    """The random values are equal for equal keys and in each run; columns take precedence."""
    path = tmp_path / "disk.csv"
    path.write_text("time,lbn\n1,7\n2,8\n3,7\n")
    (drawn,) = traces.read(path)
    assert drawn == traces.read(path)[0]
    assert drawn.calls[0] == drawn.calls[2] != drawn.calls[1]

    path.write_text("key,bytes,dollars\na,500,0.25\n")
    assert traces.read(path) == [Workload("disk", [Call("a", 500, 0.25)])]


@pytest.mark.parametrize("text", ["", "time,what\n1,2\n", '{"input_length": 5}\n', "key,bytes\na,many\n"])
def test_read_of_an_invalid_trace_raises(tmp_path: Path, text: str) -> None:
    """The error describes the valid formats."""
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(SidecardError, match=r"cannot read .* as a trace"):
        traces.read(path)


@pytest.mark.parametrize(
    ("text", "entries", "hits"),
    [("abab", 2, 2), ("abcabc", 2, 2), ("abcabc", 1, 1), ("aaaa", 1, 3), ("abc", 3, 0), ("abcdabcdab", 3, 5)],
)
def test_bound_is_the_optimum(text: str, entries: int, hits: int) -> None:
    """The bound equals hand-counted hits and an exhaustive search."""
    assert comparison.bound(calls(text), 100 * entries + 99) == hits == best_of_all(text, entries)


def best_of_all(text: str, entries: int) -> int:
    """Return the hits of the best choice, trying all subsets to keep at each call."""
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


ALL: dict[str, Policy] = {OURS: policies.ours, **PAPERS}


@pytest.mark.parametrize("name", ALL)
def test_policies_with_enough_room_miss_each_key_once(name: str) -> None:
    """Nothing is evicted while everything fits."""
    ask = ALL[name](100_000, 100)
    assert [ask(call) for call in calls("abcabcaabbcc")] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("name", ALL)
def test_policies_stay_within_the_bound(name: str) -> None:
    """A loop over more keys than fit causes misses, and no policy beats the bound."""
    asked = calls("abcdefghijkl" * 20)
    ask = ALL[name](1000, 100)
    hits = sum(ask(call) for call in asked)
    assert hits <= comparison.bound(asked, 1000)


@pytest.mark.parametrize("name", ALL)
def test_policies_reject_an_answer_above_the_budget(name: str) -> None:
    """Such an answer is always a miss and evicts nothing."""
    ask = ALL[name](1000, 100)
    assert not ask(Call("small", 100, 1.0))
    assert not any(ask(Call("large", 2000, 1.0)) for _ in range(3))
    assert ask(Call("small", 100, 1.0))


def test_sieve_and_s3_fifo_evict_as_published() -> None:
    """SIEVE keeps visited entries in place; S3-FIFO inserts a ghost into the main queue."""
    sieve = PAPERS["SIEVE"](300, 100)
    assert [sieve(call) for call in calls("abcadaeda")] == [
        *(False, False, False, True),  # a is visited
        *(False, True),  # d evicts b after the hand passed a
        *(False, True, True),  # e evicts c
    ]
    s3_fifo = PAPERS["S3-FIFO"](300, 100)
    assert [s3_fifo(call) for call in calls("abcdaefgha")] == [False] * 9 + [True]


@pytest.mark.parametrize("policy", [OURS, "GDSF"])
def test_policies_that_consider_costs_keep_expensive_answers(policy: str) -> None:
    """An expensive answer outlives cheap ones."""
    ask = ALL[policy](1000, 100)
    ask(Call("expensive", 100, 1.0))
    for call in calls("abcdefghijklmnopqrst", dollars=0.01):
        ask(call)

    assert ask(Call("expensive", 100, 1.0))


def result(policy: str, share: float, measure: Measure = "hits") -> Share:
    """Return a policy's result on one workload."""
    return Share("work", measure, 0.01, policy, share)


def test_missed_reports_a_better_library() -> None:
    """Hits have a tolerance, dollars have none; published policies and the bound do not count."""
    fine = [result(OURS, 0.3), result("lib", 0.305), result("GDSF", 0.5), result(BOUND, 0.6)]
    assert comparison.missed(fine) == []
    assert comparison.missed([result(OURS, 0.3), result("lib", 0.32)]) == [
        "work, hits, 1.0 % of the footprint: lib has 32.0 %, ours 30.0 %"
    ]
    assert len(comparison.missed([result(OURS, 0.3, "dollars"), result("lib", 0.301, "dollars")])) == 1


def test_measure_returns_both_forms_and_the_bound() -> None:
    """Dollars are shares of the cost of all calls."""
    asked = [
        Call("expensive", 1000, 9.0),
        Call("cheap", 1000, 1.0),
        Call("expensive", 1000, 9.0),
        Call("cheap", 1000, 1.0),
    ]
    results = comparison.measure([Workload("work", asked)], {OURS: policies.ours}, budgets=(10.0,))
    assert results == [
        Share("work", "hits", 10.0, OURS, 0.5),
        Share("work", "hits", 10.0, BOUND, 0.5),
        Share("work", "dollars", 10.0, OURS, 0.5),
    ]


def test_table_marks_the_best_policy_but_not_the_bound() -> None:
    """Each workload and measure has a table."""
    text = comparison.draw([result(OURS, 0.3), result("lib", 0.2), result(BOUND, 0.6), result(OURS, 0.4, "dollars")])
    rows = [line.split() for line in text.split("\n")]
    assert rows[0] == ["work:", "hits,", "equal", "answers"]
    assert rows[2] == [OURS, "30.0", "%", "*"]
    assert rows[3] == ["lib", "20.0", "%"]
    assert rows[4][-2:] == ["60.0", "%"]
    assert rows[6] == ["work:", "dollars", "saved"]


def test_picture_is_valid_xml_with_a_line_per_policy() -> None:
    """Names with special characters are escaped."""
    drawn = picture.draw(
        [result(OURS, 0.3), result("<lib> & co", 0.2), result(BOUND, 0.6), result(OURS, 0.4, "dollars")]
    )
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert len(lines) == 4
    assert {OURS, "<lib> & co", BOUND, "work: dollars saved"} <= texts
    assert lines[2].get("stroke-width") == "3.5"


def test_command_with_a_missing_trace_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The missing file is reported before anything is measured."""
    assert command.main([str(tmp_path / "none.csv")]) == 1
    assert "none.csv: No such file or directory" in capsys.readouterr().err
