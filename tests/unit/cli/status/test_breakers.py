"""The table of ``sidecard breakers``."""

from msgspec import structs

from sidecard.cli.status.breakers import breakers_text
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol.wire import Breakers
from tests.host import Host


def test_prompt_caches_have_a_table_of_their_own() -> None:
    """It has the backends that schedule by prefixes or report cached tokens, and is left out where there is none."""
    host = Host(backends={"cloud": BackendSettings(), "local": BackendSettings(), "plain": BackendSettings()})
    states = host.breakers()
    assert "Prompt caches" not in breakers_text(Breakers(0, states))

    states["local"] = structs.replace(states["local"], prefix_affinity="slots", warm_prefixes=4, held=2)
    states["cloud"] = structs.replace(states["cloud"], cached_prompt_share=0.5)
    _, _, table = breakers_text(Breakers(0, states)).partition("Prompt caches")
    rows = [line.split() for line in table.splitlines()[2:]]
    assert rows == [["cloud", "off", "50.0", "%", "0", "0"], ["local", "slots", "-", "4", "2"]]
