"""Values and names that peers choose so that they cost more than they are charged."""

from msgspec import Raw

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES, TERMS_OVERHEAD_BYTES
from sidecard.core.cache.policy import _FREE_TERMS
from sidecard.core.flights.streams import CHUNK_OVERHEAD_BYTES, chunks_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Put
from tests.host import Host, packed

MIB = 1024 * 1024


def put(host: Host, key: str, value: Raw = Raw(b"\xc0"), **fields: object) -> int:  # noqa: B008 - a constant
    """Write an entry, and return what it is charged."""
    before = host.engine._policy.cache.bytes
    actor = host.peer()
    actor.asks(Put(key, value, id=1, **fields))  # type: ignore[arg-type]  # whatever a put may have
    assert actor.gets(wire.Stored).stored
    actor.dies()
    return host.engine._policy.cache.bytes - before


def test_a_value_of_more_pieces_than_fit_is_not_cut_up() -> None:
    """A byte of it may be a piece, and each piece costs a hundred: the caller is to make its own call."""
    host = Host(cache_max_bytes=16 * MIB)
    mine = put(host, "mine", packed("x" * 1000))
    many = 1_000_000
    put(host, "many", Raw(b"\xdd" + many.to_bytes(4, "big") + b"\xc0" * many))
    reader = host.peer()
    reader.asks(Begin("many", id=1, stream=True))

    assert reader.gets(wire.Rejected).reason == "busy"
    assert host.engine.metrics.limited == {"streams": 1}
    assert host.engine._streams.bytes == 0
    assert mine > 1000
    reader.asks(wire.Get("mine", id=2))
    assert isinstance(reader.receives()[0], wire.Hit)


def test_a_value_of_as_many_pieces_as_fit_is_replayed_and_charged_for_all_of_them() -> None:
    """In each form in which msgpack says how many there are."""
    host = Host(cache_max_bytes=16 * MIB)
    for header, count in ((b"\x93", 3), (b"\xdc\x10\x00", 4096), (b"\xdd\x00\x00\x40\x00", 16384)):
        put(host, str(count), Raw(header + b"\xc0" * count))
        reader = host.peer()
        reader.asks(Begin(str(count), id=1, stream=True))
        held = host.engine._streams.bytes
        assert held in {0, len(header) + count * (1 + CHUNK_OVERHEAD_BYTES)}
        while host.behind:
            host.all_have_read()

        pieces, end = reader.reads()
        assert len(pieces) == count
        assert isinstance(end, wire.End)


def test_a_value_that_lies_about_its_pieces_is_one_piece() -> None:
    """It is served as it is, and charged for no more than can be in it."""
    lie = Raw(b"\xdd\xff\xff\xff\xff\xc0")
    assert chunks_of(lie) == [lie]
    assert Host(cache_max_bytes=MIB).engine._streams.fits(lie)


def test_entries_that_share_nothing_with_others_are_charged_for_that() -> None:
    """A namespace, or a lifetime, for each entry would else hold more than twice what the cache may."""
    host = Host()
    usual = put(host, "k")
    for number in range(2 * _FREE_TERMS):
        charge = put(host, "k", namespace=f"n{number}", ttl_seconds=1000 + number / 7)
        assert charge == usual + TERMS_OVERHEAD_BYTES * (number >= _FREE_TERMS - 1), number

    assert usual == 1 + 1 + ENTRY_OVERHEAD_BYTES


def test_from_the_second_entry_on_terms_are_shared_however_many_there_are() -> None:
    """A host may have a thousand namespaces that are really used."""
    host = Host()
    for number in range(2 * _FREE_TERMS):
        put(host, "first", namespace=f"n{number}")

    second, third = (put(host, key, namespace=f"n{2 * _FREE_TERMS - 1}") for key in ("second", "third"))
    assert second == len("second") + 1 + ENTRY_OVERHEAD_BYTES
    assert third == second - 1
