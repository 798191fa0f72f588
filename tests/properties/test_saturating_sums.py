"""Sums against Python's unbounded integers, clipped: whatever the order, over restarts, and in every reply."""

from fractions import Fraction

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.histogram import Buckets
from sidecard.core.accounts.ledger import LedgerSnapshot, TaskLedgers
from sidecard.core.accounts.ledger_repair import repaired_snapshot
from sidecard.core.backends.budgets import Budget, BudgetMemory
from sidecard.core.settings import BudgetSettings
from sidecard.core.sums import MAX_BUCKET_COUNT, MAX_COUNT, MAX_SUM, repaired, saturated
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import MAX_DOLLARS, Usage

COUNTS = st.integers(0, 2**53)
LARGE = st.sampled_from([0, 1, 2**53 - 1, 2**53, 2**62, MAX_COUNT - 1, MAX_COUNT])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(LARGE | COUNTS, max_size=8))
@example([MAX_COUNT, 1])
def test_counts_saturate_step_by_step_as_their_exact_sum_does(counts: list[int]) -> None:
    """A sum that is clipped after every step equals the clipped exact sum."""
    total = 0
    for count in counts:
        total = saturated(total + count)

    assert total == min(sum(counts), MAX_COUNT)


@given(st.lists(st.tuples(COUNTS, COUNTS, st.floats(0, MAX_DOLLARS)), max_size=6), st.integers(1, 1200))
def test_spending_is_exact_until_it_saturates(calls: list[tuple[int, int, float]], repetitions: int) -> None:
    """The tokens of a backend are those of Python's integers, clipped, over restarts too."""
    ledgers = BackendLedgers(4)
    for prompt, completion, dollars in calls:
        for _repetition in range(repetitions):
            ledgers.count_call("b", 1.0, Usage(model="m", prompt_tokens=prompt, completion_tokens=completion, cost_dollars=dollars))  # fmt: skip

    later = BackendLedgers(4)
    for _restart in range(2):
        later.by_backend.add(ledgers.by_backend.spending(), {}, 0.0, 0.0)

    exact = [repetitions * sum(call[part] for call in calls) for part in (0, 1)]
    for spent, times in ((ledgers.by_backend.spending(), 1), (later.by_backend.spending(), 2)):
        found = [(of.prompt_tokens, of.completion_tokens) for of in spent.values()]
        assert found == [tuple(min(times * tokens, MAX_COUNT) for tokens in exact)] * bool(calls)
        assert all(of.dollars <= MAX_SUM for of in spent.values())
        assert msgspec.json.decode(msgspec.json.encode(spent)) == msgspec.to_builtins(spent)


@given(st.lists(st.dictionaries(st.sampled_from(["hits", "led", "shared"]), LARGE), max_size=4))
def test_a_tasks_sums_fit_every_encoding(runs: list[dict[str, float]]) -> None:
    """The reply's derived sums fit as well, and the counters of this run are not those of earlier ones."""
    ledgers = TaskLedgers(4)
    for sums in runs:
        ledgers.add({"rag": sums}, {}, 0.0, 0.0)

    if not runs:
        return

    ledgers.of("rag").led += 1
    exact = {name: sum(int(sums.get(name, 0)) for sums in runs) for name in ("hits", "led", "shared")}
    exact["led"] += 1
    assert {name: ledgers.sums()["rag"][name] for name in exact} == {
        name: min(value, MAX_COUNT) for name, value in exact.items()
    }
    assert ledgers.of("rag").sums_of_this_run()["led"] == 1
    total = ledgers.total()
    assert total.calls == min(sum(min(value, MAX_COUNT) for value in exact.values()), MAX_COUNT)
    msgspec.msgpack.encode(total)


@given(
    st.lists(st.lists(COUNTS, min_size=3, max_size=3), max_size=6), st.lists(st.floats(-MAX_SUM, MAX_SUM), max_size=6)
)
def test_buckets_are_exact_until_they_saturate(added: list[list[int]], values: list[float]) -> None:
    """The exposed counts are cumulative, never beyond what a float is exact for, and the last bucket is the count."""
    buckets = Buckets((1.0, 2.0))
    for counts in added:
        buckets.add((1.0, 2.0), counts, MAX_SUM)

    for value in values:
        buckets.observe(value)

    samples = {(sample.name, sample.labels.get("le")): sample.value for sample in buckets.samples("h", {})}
    exact = [sum(counts[index] for counts in added) for index in range(3)]
    exact[0] += sum(value <= 1.0 for value in values)
    exact[1] += sum(1.0 < value <= 2.0 for value in values)
    exact[2] += sum(value > 2.0 for value in values)
    cumulative = [min(sum(exact[: index + 1]), MAX_BUCKET_COUNT) for index in range(3)]
    assert [samples["h_bucket", le] for le in ("1.0", "2.0", "+Inf")] == cumulative
    assert samples["h_count", None] == cumulative[-1] == float(cumulative[-1])
    assert abs(samples["h_sum", None]) <= MAX_SUM


@given(st.lists(st.floats(0, MAX_DOLLARS), max_size=8), st.floats(0, MAX_SUM), st.floats(0, 2 * MAX_SUM))
def test_a_budget_counts_with_saturated_spending(costs: list[float], earlier: float, elsewhere: float) -> None:
    """Its sums stay within the bound, what it spent itself is no less than nothing, and a spent budget admits nothing."""
    budget = Budget("day", BudgetSettings(MAX_SUM, hard=True), WallClock(0.0))
    budget.restore(BudgetMemory(0, earlier), 0.0)
    for cost in costs:
        budget.spend(cost, 1.0)

    budget.set_remote(0, elsewhere, 1.0)
    exact = sum(map(Fraction, costs))
    assert 0 <= budget.spent_dollars(1.0) <= MAX_SUM
    assert 0 <= budget.own_spending(1.0)[1] <= float(exact) + 1.0
    assert budget.admits(0.0, 1.0) == (budget.spent_dollars(1.0) < MAX_SUM)
    msgspec.msgpack.encode(budget.state(1.0))


@given(ANY_JSON)
@example(2**5000)
@example(float("nan"))
def test_a_repaired_number_is_a_sum(value: object) -> None:
    """Whatever a file has in the place of a sum."""
    count, total = repaired(value, int), repaired(value, float)
    assert type(count) is int
    assert 0 <= count <= MAX_COUNT
    assert type(total) is float
    assert 0 <= total <= MAX_SUM
    if type(value) is int and 0 <= value <= MAX_COUNT:
        assert count == value


SOUND = {"hits": 3, "billed_dollars": 0.5}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            table: ANY_JSON | st.dictionaries(st.text(max_size=8), ANY_JSON, max_size=4)
            for table in ("began_at", "tasks", "backends", "models", "budgets", "breakers", "names")
        },
    )
)
def test_every_object_is_a_ledger_that_can_be_written_again(fields: dict[str, object]) -> None:
    """Sound items stay, whatever surrounds them."""
    tasks = fields.get("tasks", {})
    if isinstance(tasks, dict):
        fields["tasks"] = {**tasks, "sound": SOUND}

    snapshot, repairs = repaired_snapshot(fields)
    if isinstance(tasks, dict):
        assert snapshot.tasks["sound"] == SOUND

    assert all(len(repair) < 1000 for repair in repairs)
    written = msgspec.structs.replace(snapshot, began_at=1.0)
    assert msgspec.json.decode(msgspec.json.encode(written), type=LedgerSnapshot) == written
