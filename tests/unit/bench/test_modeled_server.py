"""A model of llama.cpp's server, and the acceptance of prefix affinity with it: in virtual time, with a real engine."""

from functools import cache

import pytest

from tests.bench.prefixes import modeled
from tests.bench.prefixes.modeled import LIMITS, Compared
from tests.bench.prefixes.report import FASTER_THAN_ARRIVAL, NEAR_BEST, NO_SLOWER, SHARE_OF_TOKENS
from tests.bench.prefixes.server_model import TWO_PROCESSORS, Machine, Prompt, Server, Task
from tests.bench.prefixes.workloads import workloads

PREFIXES, LONG, DOCUMENTS, CHATS, UNSHARED = workloads()

compare = cache(modeled.compare)

EVEN = Machine(100.0, 10.0, 0.5)


def run(server: Server, *prompts: Prompt) -> list[Task]:
    """Send calls at the same time, and compute until all have their answers."""
    tasks = [Task(prompt, f"answer to {prompt}", 2) for prompt in prompts]
    for task in tasks:
        server.add(task)

    while server.step() is not None:
        pass

    return tasks


def test_a_slot_keeps_its_prompt_and_replaced_ones_stay_in_memory() -> None:
    """Nothing is processed twice one after another, whatever the number of slots; the last token always is."""
    server = Server(EVEN, slots=2)
    for expected in (100, 1):
        for name in "abcd":
            (task,) = run(server, ((name, 100),))
            assert task.processed == expected

    (longer,) = run(server, (("a", 100), ("answer to (('a', 100),)", 2), ("next", 30)))
    assert longer.processed == 30


def test_equal_prefixes_at_the_same_time_are_processed_in_each_slot() -> None:
    """From then on, that many slots have it."""
    server = Server(EVEN, slots=2)
    first, second, third = run(server, *(((("a", 100), (name, 10))) for name in "xyz"))
    assert (first.processed, second.processed, third.processed) == (110, 110, 10)


def test_batches_take_the_time_of_their_tokens() -> None:
    """Prompts together, then a token of each answer."""
    server = Server(EVEN, slots=2)
    server.add(Task((("a", 50),), "a", 2))
    server.add(Task((("b", 150),), "b", 2))
    seconds, first, ended = server.step() or (0.0, [], [])
    assert (seconds, len(first), len(ended)) == (2.0, 2, 0)
    seconds, first, ended = server.step() or (0.0, [], [])
    assert seconds == pytest.approx(0.15)
    assert (len(first), len(ended)) == (0, 2)
    assert server.step() is None


def test_the_model_repeats_what_was_measured() -> None:
    """Seconds of the first workload and of the long answers, on two quiet processors."""
    for workload, measured in ((PREFIXES, {1: 18.3, 4: 29.8}), (LONG, {1: 34.5, 2: 39.6, 4: 50.3})):
        arrival = compare(workload, "two processors").arrival
        assert {limit: arrival[limit].seconds for limit in measured} == pytest.approx(measured, rel=0.1)


def best(compared: Compared) -> float:
    """Return the seconds at the best static limit."""
    return min(result.seconds for result in compared.arrival.values())


def test_affinity_on_two_processors_is_near_the_best_static_limit() -> None:
    """With every workload, at the default limit and at that of the server's slots; arrival order is not, with some."""
    for workload in (PREFIXES, LONG, DOCUMENTS, CHATS):
        compared = compare(workload, "two processors")
        for limit in (2, 4):
            assert compared.affinity[limit].seconds <= NEAR_BEST * best(compared), (workload.name, limit)

    ours, arrival = compare(PREFIXES, "two processors").affinity[2], compare(PREFIXES, "two processors").arrival[4]
    assert arrival.seconds / ours.seconds >= FASTER_THAN_ARRIVAL
    assert ours.processed_tokens / arrival.processed_tokens <= SHARE_OF_TOKENS


def test_affinity_costs_nothing_where_nothing_is_shared() -> None:
    """At any limit."""
    compared = compare(UNSHARED, "two processors")
    for limit in LIMITS:
        assert compared.affinity[limit].seconds <= NO_SLOWER * compared.arrival[limit].seconds


def test_affinity_on_an_accelerator_keeps_the_slots_busy() -> None:
    """Answers that are computed together cost little there: waiting for one slot would be slower than processing again."""
    for workload in (PREFIXES, LONG):
        compared = compare(workload, "accelerator")
        assert compared.affinity[4].seconds <= NEAR_BEST * best(compared), workload.name


def test_affinity_is_near_the_best_static_limit_with_random_workloads() -> None:
    """At the default limit of each machine; the bench measures more of them."""
    found = list(modeled.survey(range(2)))
    assert len({one.workload for one in found}) == 2
    assert {one.machine for one in found if one.against_best > 1.2} == set()
    assert modeled.draw_survey(found).count(" 2 ") == 2


def test_table_has_a_row_for_each_machine_and_workload() -> None:
    """Times and tokens."""
    text = modeled.draw([compare(UNSHARED, name) for name in modeled.MACHINES])
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["two", "accelerator"]
    assert TWO_PROCESSORS is modeled.MACHINES["two processors"]
