"""The default limit of local backends, which follows the processors of the host."""

import msgspec
import pytest

from sidecard.config.load import load
from sidecard.core.settings import LOCAL_MAX_CONCURRENT, BackendSettings, local_limit
from tests.host import Host


@pytest.mark.parametrize(("processors", "limit"), [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4), (64, LOCAL_MAX_CONCURRENT)])
def test_limit_is_a_call_per_processor_up_to_four(processors: int, limit: int) -> None:
    """Never none."""
    assert local_limit(processors) == limit


@pytest.mark.parametrize("count", [None, 1, 2, 16])
def test_local_backends_have_the_limit_of_the_host(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    """With and without settings of their own; an explicit limit stays."""
    monkeypatch.setattr("os.cpu_count", lambda: count)
    given = {"local": {"weight": 2}, "near": {"locality": "local"}, "set": {"locality": "local", "max_concurrent": 9}}
    config = load(None, {"SIDECARD_BACKENDS": msgspec.json.encode(given).decode()})
    limit = local_limit(count or 1)

    assert {name: one.max_concurrent for name, one in config.backends.items()} == {
        "local": limit,
        "near": limit,
        "set": 9,
    }
    assert load(None, {}).engine_settings().local_max_concurrent == limit


def test_a_local_backend_without_settings_has_the_limit_of_the_engine() -> None:
    """From the start, and once its settings are removed."""
    host = Host(local_max_concurrent=2)
    host.peer().calls("local")
    assert host.breakers()["local"].limit == 2

    host.reads(backends={"local": BackendSettings(max_concurrent=9)}, local_max_concurrent=3)
    assert host.breakers()["local"].limit == 9
    host.reads(local_max_concurrent=3)
    assert host.breakers()["local"].limit == 3
