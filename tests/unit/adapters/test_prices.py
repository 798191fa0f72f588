"""The price table: known models, unknown ones, and any text; and that it is only loaded if configured."""

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
    """More tokens of either kind cost more, and none cost nothing."""
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
def test_an_unknown_model_has_no_price(model: str, price: Price) -> None:
    """Peers choose the names, so no text may raise. The second lookup uses the remembered name."""
    assert price(model, 1, 1) is None
    assert price(model, 1, 1) is None


@pytest.mark.parametrize(
    ("model", "cached", "written", "dollars"),
    [
        ("gpt-4o", 1_000_000, 0, 1.25),
        ("gpt-4o", 0, 1_000_000, 2.5),
        ("claude-3-5-haiku-latest", 1_000_000, 0, 0.08),
        ("claude-3-5-haiku-latest", 400_000, 600_000, 0.032 + 0.6),
        ("gpt-4", 1_000_000, 0, 30.0),
    ],
)
def test_tokens_of_the_providers_cache_have_their_own_price(
    model: str, cached: int, written: int, dollars: float, price: Price
) -> None:
    """Or that of other prompt tokens, if the provider has none for them."""
    assert price(model, 1_000_000, 0, cached, written) == pytest.approx(dollars)


def test_the_largest_token_counts_have_a_price(price: Price) -> None:
    """No count that the protocol allows may raise."""
    dollars = price("gpt-4o", 2**53, 2**53)
    assert dollars is not None
    assert dollars > 1e9


def test_remembered_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and the library's: both are reset together, and prices stay the same."""
    monkeypatch.setattr("sidecard.adapters.prices.MAX_REMEMBERED", 10)
    table = prices._Table()
    before = table.price("gpt-4o", 1000, 1000)
    # The library ignores case and caches one spelling, where this table remembers each.
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


def test_an_unknown_model_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups block the loop."""
    table = prices._Table()
    table.price("nonsense", 1, 1)
    monkeypatch.setattr(table, "_snapshot", None)

    assert table.price("nonsense", 1, 1) is None
    assert table.price("x" * (MAX_MODEL_CHARACTERS + 1), 1, 1) is None
    assert table._unknown == {"nonsense"}


def test_an_error_of_the_library_is_no_price_and_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may concern these token counts alone."""
    table = prices._Table()
    with monkeypatch.context() as broken:
        broken.setattr(table, "_snapshot", None)
        assert table.price("gpt-4o", 1, 1) is None

    assert table.price("gpt-4o", 1, 1) is not None


def test_without_the_library_the_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ConfigError, match=r'prices\.table is true, but .*pip install "sidecard\[prices\]"'):
        table_price()


def test_a_daemon_without_the_setting_does_not_load_the_library() -> None:
    """Loading costs half a second and 30 MB."""
    program = "import sys, sidecard.daemon.run, sidecard.adapters.prices; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
