"""Which backend a begin gets, by route, and why backends are passed over."""

from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from sidecard.core.backends.admission import LATENCY_HALF_LIFE_SECONDS, Admission, Decision
from sidecard.core.backends.breaker import Pause
from sidecard.core.backends.budgets import Budgets
from sidecard.core.backends.prefix_policy import NO_PATIENCE
from sidecard.core.backends.registry import MAX_NAMED, OTHER_BACKENDS, Backends
from sidecard.core.settings import BackendSettings, BudgetSettings, EngineSettings, LiveSettings, TaskSettings
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import Begin, RejectionReason, Route, Usage
from tests.backends import PARTS


class Town:
    """Backends, and an admission for callers one after the other."""

    def __init__(self, *, budgets: dict[str, BudgetSettings] | None = None, **settings: Any) -> None:
        self.now = 1000.0
        self.settings = EngineSettings(budgets=budgets or {}, **settings)
        self.backends = Backends(self.settings, PARTS)
        self.budgets = Budgets(self.settings.budgets, WallClock())
        self.admission = Admission(LiveSettings(self.settings), self.backends, self.budgets)

    def decide(self, *names: str, route: Route | None = None, task: str = "general") -> Decision:
        """Decide, without acquiring a permit."""
        request = Begin(None, backends=names, route=route, task=task)
        return self.admission.decide(
            request, self.admission.names(request), (1000, 1), self.now, "1000:default", NO_PATIENCE
        )[0]

    def chooses(self, *names: str, route: Route | None = None) -> str | None:
        """Decide, and return the chosen backend's name."""
        chosen = self.decide(*names, route=route).chosen
        return None if chosen is None else chosen[0]

    def takes(self, name: str, count: int = 1) -> None:
        """Acquire permits of a backend, and keep them."""
        for _ in range(count):
            self.admission.acquire(self.backends.of(name), "general", self.now)

    def answers(self, name: str, seconds: float, **usage: Any) -> None:
        """Report an answer of a backend."""
        self.backends.learn(self.backends.of(name), seconds, Usage(**usage), self.now)

    def opens(self, name: str) -> None:
        """Open a breaker as an operator."""
        self.backends.of(name).breaker.set("open", self.now)


def priced(input_dollars: float, output_dollars: float) -> BackendSettings:
    """Return settings of a backend with prices per million tokens."""
    return BackendSettings(
        input_dollars_per_million_tokens=input_dollars, output_dollars_per_million_tokens=output_dollars
    )


def limited(permits: int, **settings: Any) -> BackendSettings:
    """Return settings of a backend with a limit."""
    return BackendSettings(max_concurrent=permits, **settings)


def test_order_takes_the_first() -> None:
    """The route ``order`` follows the caller's order."""
    assert Town().chooses("b", "a") == "b"


def test_a_name_given_twice_is_one_backend() -> None:
    """At its first position."""
    town = Town()

    assert town.admission.names(Begin(None, backends=("b", "a", "b"))) == ("b", "a")


def test_names_defaults_to_the_tasks_backends_and_then_to_the_default() -> None:
    """A begin's own backends come first."""
    town = Town(tasks={"rag": TaskSettings(backends=("a", "b"))})

    assert town.admission.names(Begin(None, task="rag")) == ("a", "b")
    assert town.admission.names(Begin(None, task="rag", backends=("c",))) == ("c",)
    assert town.admission.names(Begin(None)) == ("default",)


def test_the_begins_route_comes_before_the_tasks() -> None:
    """Without either it is the caller's order."""
    town = Town(tasks={"rag": TaskSettings(route="cheapest")})

    assert town.admission.route(Begin(None, task="rag", route="fastest")) == "fastest"
    assert town.admission.route(Begin(None, task="rag")) == "cheapest"
    assert town.admission.route(Begin(None)) == "order"


@pytest.mark.parametrize("route", ["order", "cheapest", "fastest", "least_busy", "weighted"])
def test_equal_backends_keep_the_callers_order(route: Route) -> None:
    """Nothing is known of either."""
    assert Town().chooses("b", "a", "c", route=route) == "b"


def test_cheapest_compares_the_cost_of_a_typical_call() -> None:
    """Input and output have separate prices, and prompts are longer than answers."""
    town = Town(backends={"dear": priced(3.0, 15.0), "cheap": priced(0.5, 1.5), "odd": priced(0.1, 30.0)})

    assert town.chooses("dear", "odd", "cheap", route="cheapest") == "cheap"
    town.answers("odd", 1.0, prompt_tokens=100_000, completion_tokens=1)
    assert town.chooses("dear", "odd", "cheap", route="cheapest") == "odd"


def test_cheapest_prefers_a_declared_local_backend_without_a_price() -> None:
    """It is free; a remote one without a price is last until its cost has been reported."""
    town = Town(backends={"cloud": priced(0.5, 1.5)})

    assert town.chooses("unknown", "cloud", "local", route="cheapest") == "local"
    assert town.chooses("unknown", "cloud", route="cheapest") == "cloud"
    town.answers("unknown", 1.0, cost_dollars=1e-6)
    assert town.chooses("cloud", "unknown", route="cheapest") == "unknown"


def test_fastest_prefers_the_lower_latency() -> None:
    """The moving average of its answers' times."""
    town = Town()
    town.answers("a", 4.0)
    town.answers("b", 2.0)
    assert town.chooses("a", "b", route="fastest") == "b"
    for _ in range(10):
        town.answers("b", 9.0)

    assert town.chooses("a", "b", route="fastest") == "a"


def test_fastest_weighs_old_answers_less() -> None:
    """An answer that was slow a while ago weighs less than a fast one now."""
    town = Town()
    for _ in range(20):
        town.answers("a", 10.0)

    town.answers("b", 3.0)
    town.now += 600.0
    town.answers("a", 1.0)
    town.answers("b", 3.0)

    assert town.backends.of("a").latency.value < 2.0
    assert town.chooses("b", "a", route="fastest") == "a"


def test_fastest_tries_unmeasured_backends() -> None:
    """Otherwise they would stay unmeasured."""
    town = Town()
    town.answers("a", 0.01)

    assert town.chooses("a", "b", route="fastest") == "b"


def test_fastest_tries_an_unmeasured_backend_with_one_call_at_a_time() -> None:
    """It may never answer."""
    town = Town()
    town.answers("a", 0.01)
    town.takes("b")

    assert town.chooses("a", "b", route="fastest") == "a"


def test_fastest_revisits_a_backend_that_was_slow() -> None:
    """Its latency decays while it is unused, so it is tried again when the other's is as long."""
    town = Town()
    town.answers("slow", 8.0)
    for _ in range(1000):
        town.answers("fast", 1.0)
        if town.chooses("fast", "slow", route="fastest") == "slow":
            break

        town.now += 10.0

    assert town.now == pytest.approx(1000.0 + 3 * LATENCY_HALF_LIFE_SECONDS, abs=20.0)


def test_least_busy_compares_with_the_limit() -> None:
    """Two calls of eight are less busy than one of two."""
    town = Town(backends={"small": limited(2), "large": limited(8)})
    town.takes("small")
    town.takes("large", 2)
    assert town.chooses("small", "large", route="least_busy") == "large"
    town.takes("large", 3)

    assert town.chooses("large", "small", route="least_busy") == "small"


def test_least_busy_without_limits_compares_calls() -> None:
    """There is nothing else to compare."""
    town = Town()
    town.takes("a", 3)
    town.takes("b", 2)

    assert town.chooses("a", "b", route="least_busy") == "b"


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 1.0), (0.5, 0.25, 0.25), (70.0, 20.0, 10.0), (1.0,)])
def test_weighted_shares_are_exact(weights: tuple[float, ...]) -> None:
    """Over a hundred calls each backend gets its share, evenly spaced."""
    names = tuple("abcdef"[: len(weights)])
    town = Town(backends={name: BackendSettings(weight=weight) for name, weight in zip(names, weights, strict=True)})
    chosen = [town.chooses(*names, route="weighted") for _ in range(100)]

    assert Counter(chosen) == {
        name: round(100 * weight / sum(weights)) for name, weight in zip(names, weights, strict=True)
    }


def test_weighted_is_smooth() -> None:
    """Three to one is a, a, b, a and not a, a, a, b."""
    town = Town(backends={"a": BackendSettings(weight=3.0), "b": BackendSettings(weight=1.0)})

    assert "".join(town.chooses("a", "b", route="weighted") or "" for _ in range(8)) == "aabaaaba"


def test_weighted_earns_nothing_while_the_breaker_is_open() -> None:
    """Otherwise the backend would get all calls when it recovers."""
    town = Town(backends={"a": BackendSettings(weight=1.0), "b": BackendSettings(weight=1.0)})
    town.opens("b")
    assert {town.chooses("a", "b", route="weighted") for _ in range(50)} == {"a"}
    town.backends.of("b").breaker.set("close", town.now)

    assert Counter(town.chooses("a", "b", route="weighted") for _ in range(10)) == {"a": 5, "b": 5}


@pytest.mark.parametrize("route", ["order", "cheapest", "fastest", "least_busy", "weighted"])
def test_every_route_skips_backends_that_cannot_be_called(route: Route) -> None:
    """The decision has the reasons of those it preferred."""
    town = Town(backends={"full": limited(1, weight=9.0), "open": BackendSettings(weight=8.0)})
    town.takes("full")
    town.opens("open")
    decision = town.decide("full", "open", "c", route=route)

    assert decision.chosen is not None
    assert decision.chosen[0] == "c"
    assert decision.route == route
    reasons: dict[str, RejectionReason] = {"full": "saturated", "open": "breaker_open"}
    assert decision.obstacles.items() <= reasons.items()
    if route in {"order", "weighted"}:
        assert decision.obstacles == reasons


def test_sovereign_mode_rejects_remote_backends() -> None:
    """Backends without settings are remote unless their name means this host."""
    town = Town(sovereign=True, backends={"near": BackendSettings(locality="local")})

    assert town.decide("cloud").reason == "sovereign"
    assert [town.chooses(name) for name in ("near", "local", "default")] == ["near", "local", "default"]
    assert town.chooses("cloud", "near") == "near"


def test_a_spent_hard_budget_rejects_backends_that_cost() -> None:
    """A free local one still serves; the rejection says when the budget resets."""
    budgets = {"daily": BudgetSettings(1.0, hard=True)}
    town = Town(budgets=budgets, backends={"cloud": priced(1.0, 1.0)})
    town.budgets.by_name["daily"].spend(1.0, town.now)
    decision = town.decide("cloud")

    assert (decision.chosen, decision.reason) == (None, "budget")
    assert decision.retry_after_seconds == 86400.0 - town.now
    assert town.chooses("cloud", "local") == "local"


def test_calls_in_progress_count_for_a_budget() -> None:
    """Many calls that begin at the same time must not each find room; a released permit returns its reservation."""
    town = Town(budgets={"daily": BudgetSettings(1.0, hard=True)})
    town.answers("cloud", 1.0, cost_dollars=0.25)
    permits = []
    while (chosen := town.decide("cloud").chosen) is not None:
        permits.append(town.admission.acquire(chosen[1], "general", town.now))

    assert len(permits) == 4
    town.admission.release_reservation(permits[0])
    town.admission.release_reservation(permits[0])
    assert town.budgets.by_name["daily"].reserved_dollars == 0.75, "given back once"
    assert town.chooses("cloud") == "cloud"


def test_a_rejected_call_counts_once_for_its_budget() -> None:
    """A call that another backend takes is not rejected."""
    town = Town(budgets={"daily": BudgetSettings(1.0, hard=True)})
    daily = town.budgets.by_name["daily"]
    daily.spend(1.0, town.now)
    town.decide("cloud", "local")
    assert daily.rejected == 0

    town.decide("cloud", "other")
    assert daily.rejected == 1


def test_one_false_cost_does_not_reject_later_calls() -> None:
    """The largest samples do not count once there are others."""
    town = Town(budgets={"daily": BudgetSettings(10.0, hard=True)})
    for cost in (0.01, 300.0, 0.01, 300.0, 0.01):
        town.answers("cloud", 1.0, cost_dollars=cost)

    assert town.chooses("cloud") == "cloud"
    assert town.backends.of("cloud").dollars.value == 0.01


def test_tokens_of_a_free_backend_do_not_price_others() -> None:
    """No one pays for them, so they may be anything."""
    town = Town(budgets={"daily": BudgetSettings(1.0, hard=True)}, backends={"cloud": priced(1.0, 1.0)})
    for _ in range(20):
        town.answers("local", 1.0, prompt_tokens=2**53, completion_tokens=2**53)

    town.takes("cloud", 3)
    assert town.chooses("cloud") == "cloud"


def test_expected_costs_include_what_the_backend_reads_from_its_cache() -> None:
    """Else a budget reserves several times what its calls cost."""
    cached = structs.replace(priced(10.0, 10.0), cached_input_dollars_per_million_tokens=1.0)
    town = Town(backends={"cached": cached, "other": priced(10.0, 10.0)})
    for _ in range(20):
        town.backends.of("cached").count_prompt(Usage(prompt_tokens=10_000, cached_prompt_tokens=9_000))
        town.answers("cached", 1.0, prompt_tokens=10_000, completion_tokens=100)

    assert town.backends.expected_dollars(town.backends.of("cached")) == pytest.approx(0.02)
    assert town.backends.expected_dollars(town.backends.of("other")) == pytest.approx(0.101)


def test_a_false_number_of_tokens_leaves_one_call_at_a_time() -> None:
    """The first call of a period tests the expected cost; until it has ended there is no second one."""
    town = Town(budgets={"daily": BudgetSettings(1.0, hard=True)}, backends={"cloud": priced(1.0, 1.0)})
    town.answers("cloud", 1.0, prompt_tokens=2**53)
    permit = town.admission.acquire(town.backends.of("cloud"), "general", town.now)

    assert town.chooses("cloud") is None
    town.answers("cloud", 1.0, prompt_tokens=1000)
    town.admission.release_reservation(permit)
    town.takes("cloud", 2)
    assert town.chooses("cloud") == "cloud"


@pytest.mark.parametrize(
    ("name", "costs"), [("cloud", True), ("default", True), ("local", False), ("near", False), ("dear", True)]
)
def test_costs_of_declared_and_undeclared_backends(name: str, costs: bool) -> None:
    """All backends cost but those that are declared local and have no price; `default` may be anything."""
    near = BackendSettings(locality="local")
    dear = BackendSettings(
        locality="local", input_dollars_per_million_tokens=1.0, output_dollars_per_million_tokens=1.0
    )
    town = Town(backends={"near": near, "dear": dear})

    assert town.backends.of(name).costs is costs


def test_a_local_backend_with_a_reported_cost_costs() -> None:
    """Its owner is paid by the call."""
    town = Town()
    town.answers("local", 1.0, cost_dollars=0.5)

    assert town.backends.of("local").costs


def test_reason_is_the_one_that_passes_soonest() -> None:
    """A full queue before an open breaker before a spent budget before sovereign mode, which never passes."""
    town = Town(
        sovereign=True,
        budgets={"b": BudgetSettings(0.0, backend="spent", hard=True)},
        backends={
            "spent": BackendSettings(
                locality="local", input_dollars_per_million_tokens=1.0, output_dollars_per_million_tokens=1.0
            ),
            "near": BackendSettings(locality="local"),
            "full": limited(1, max_queue=0, locality="local"),
        },
    )
    town.opens("near")
    town.takes("full")
    names = ("cloud", "spent", "near", "full")

    assert [town.decide(*names[: n + 1]).reason for n in range(4)] == [
        "sovereign",
        "budget",
        "breaker_open",
        "saturated",
    ]
    assert town.decide(*names).obstacles == dict(
        zip(names, ["sovereign", "budget", "breaker_open", "saturated"], strict=True)
    )


def test_retry_after_is_the_earliest_of_all_backends() -> None:
    """The end of an operator's hold is unknown."""
    town = Town()
    assert town.backends.of("held").breaker.set("open", town.now)
    for name, seconds in (("a", 40.0), ("b", 15.0)):
        breaker = town.backends.of(name).breaker
        breaker.honor_retry_after(breaker.admit(town.now), Pause(seconds), town.now)

    assert town.decide("held", "a", "b").retry_after_seconds == 15.0
    assert town.decide("held").retry_after_seconds is None


def test_saturated_backends_are_worth_waiting_for() -> None:
    """Unless their queue is full."""
    town = Town(backends={"a": limited(1), "b": limited(1), "full": limited(1, max_queue=0)})
    for name in ("a", "b", "full"):
        town.takes(name)

    town.opens("open")
    decision = town.decide("a", "open", "full", "b")
    assert decision.chosen is None
    assert [name for name, _ in decision.queues] == ["a", "b"]


def test_backends_are_bounded_in_number() -> None:
    """Names that peers invent evict one another; configured backends and those in use stay."""
    town = Town(max_backends=40, backends={"mine": limited(1)})
    town.takes("busy")
    town.opens("held")
    for number in range(1000):
        town.backends.of(f"invented{number}")

    known = town.backends.all()
    assert len(known) <= 40
    assert {"mine", "busy", "held"} <= known.keys()
    assert OTHER_BACKENDS not in known


def test_openings_and_changes_of_dropped_backends_still_count() -> None:
    """The counts only grow, or a change could go unseen."""
    town = Town(max_backends=40)
    town.opens("open once")
    town.backends.of("open once").breaker.set("close", town.now)
    for number in range(1000):
        town.backends.of(f"invented{number}")

    assert "open once" not in town.backends.all()
    assert (town.backends.opened, town.backends.changes) == (1, 2)


def test_backends_beyond_the_bound_share_one() -> None:
    """They are called nevertheless, and share breaker and limit; a caller is in its queue once."""
    town = Town(max_backends=40)
    for number in range(60):
        town.takes(f"busy{number}")

    assert town.backends.of("one") is town.backends.of("two")
    assert town.backends.of("one").name == OTHER_BACKENDS
    assert OTHER_BACKENDS in town.backends.all()
    assert town.chooses("one", "two") == "one"


def test_none_of_a_begins_own_backends_evicts_another() -> None:
    """They are looked up one after the other, and the decision must concern the ones that are kept."""
    town = Town(max_backends=1)
    names = [f"b{number}" for number in range(MAX_NAMED)]
    for _ in range(5):
        looked_up = [town.backends.of(name) for name in names]
        assert all(backend is town.backends.of(name) for name, backend in zip(names, looked_up, strict=True))
        names = [f"{name}x" for name in names]


@pytest.mark.parametrize(
    ("settings", "dollars"),
    [
        (BackendSettings(input_dollars_per_million_tokens=3.0), 6.0),
        (BackendSettings(output_dollars_per_million_tokens=5.0), 20.0),
        (BackendSettings(input_dollars_per_million_tokens=3.0, output_dollars_per_million_tokens=5.0), 26.0),
        (BackendSettings(), 0.0),
    ],
)
def test_tokens_without_a_price_cost_nothing(settings: BackendSettings, dollars: float) -> None:
    """A backend may have a price for one direction alone."""
    town = Town(backends={"cloud": settings})
    assert town.backends.of("cloud").price_dollars(2e6, 4e6) == pytest.approx(dollars)
