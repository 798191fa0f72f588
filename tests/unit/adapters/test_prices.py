"""The price table: known models, unknown ones, and any text at all; and that it is only loaded where it is wanted."""

import subprocess
import sys
from itertools import product

import pytest

from sidecard.adapters import prices
from sidecard.adapters.prices import MAX_MODEL_CHARACTERS, table_price
from sidecard.core.accounts.billing import Price
from sidecard.errors import ConfigError


@pytest.fixture(scope="module")
def price() -> Price:
    """Load the table."""
    return table_price()


@pytest.mark.parametrize("model", ["gpt-4o", "GPT-4o", "openai/gpt-4o", "azure/gpt-4o", "claude-sonnet-4-5"])
def test_a_known_model_costs_by_its_tokens(model: str, price: Price) -> None:
    """More of either costs more, and none of both nothing."""
    base, prompt, both = price(model, 1000, 1000), price(model, 2000, 1000), price(model, 2000, 2000)

    assert base is not None
    assert prompt is not None
    assert both is not None
    assert 0.0 < base < prompt < both == pytest.approx(2 * base)
    assert price(model, 0, 0) == 0.0


@pytest.mark.parametrize(
    "model",
    [
        "",
        "/",
        "a/",
        "/a",
        "openai/",
        "nonsense",
        "nonsense/gpt-4o/x",
        "\0",
        "\ud800",
        "ß" * 100,
        "x" * 100_000,
        "(" * 200,
        "{0}",
    ],
)
def test_any_other_text_has_no_price(model: str, price: Price) -> None:
    """And no exception: models are named by peers. The second time is the remembered one."""
    assert price(model, 1, 1) is None
    assert price(model, 1, 1) is None


def test_counts_as_large_as_the_wire_takes_have_a_price(price: Price) -> None:
    """Nobody's budget, but nobody's fault either."""
    dollars = price("gpt-4o", 2**53, 2**53)
    assert dollars is not None
    assert dollars > 1e9


def test_names_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and the library's: both begin afresh, and prices stay what they were."""
    monkeypatch.setattr("sidecard.adapters.prices.MAX_REMEMBERED", 10)
    table = prices._Table()
    before = table.price("gpt-4o", 1000, 1000)
    # The library does not tell upper from lower case, and remembers the one where we remember each.
    for serial, letters in enumerate(product("gG", "pP", "tT", "oO")):
        assert table.price("{}{}{}-4{}".format(*letters), 1, 1) is not None
        for number in range(10):
            assert table.price(f"unknown-{serial}-{number}", 1, 1) is None

    snapshot = table._snapshot
    assert len(table._known) + len(table._unknown) <= 10
    assert len(snapshot._lookup_cache) <= 10
    assert len(snapshot._provider_cache) <= 10
    assert len(snapshot._provider_misses) <= 10
    assert table.price("gpt-4o", 1000, 1000) == before


def test_what_is_unknown_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price is asked for on the loop."""
    table = prices._Table()
    table.price("nonsense", 1, 1)
    monkeypatch.setattr(table, "_snapshot", None)

    assert table.price("nonsense", 1, 1) is None
    assert table.price("x" * (MAX_MODEL_CHARACTERS + 1), 1, 1) is None
    assert table._unknown == {"nonsense"}


def test_a_fault_of_the_library_is_no_price_and_is_not_held_against_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be one of these tokens only."""
    table = prices._Table()
    with monkeypatch.context() as broken:
        broken.setattr(table, "_snapshot", None)
        assert table.price("gpt-4o", 1, 1) is None

    assert table.price("gpt-4o", 1, 1) is not None


def test_without_the_library_the_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to install."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ConfigError, match=r'prices\.table is true, but .*pip install "sidecard\[prices\]"'):
        table_price()


def test_a_daemon_without_the_setting_does_not_load_the_library() -> None:
    """It would cost it half a second and 30 MB."""
    program = "import sys, sidecard.daemon.run, sidecard.adapters.prices; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
