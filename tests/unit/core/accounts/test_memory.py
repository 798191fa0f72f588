"""Memory accounts: pools, their shares and their sums."""

import pytest

from sidecard.core.accounts.memory import COMMON_SHARE, LITTLE_SHARE, POOL_SHARES, MemoryAccounts, MemoryPool

LIMIT = 1600


@pytest.fixture
def pool() -> MemoryPool:
    """Create an empty pool."""
    return MemoryPool(LIMIT)


def test_single_uid_common_share_is_admitted(pool: MemoryPool) -> None:
    """A single active uid may use three quarters of a pool, to the byte."""
    common = int(LIMIT * COMMON_SHARE)
    assert pool.try_charge(1, common)
    assert not pool.try_charge(1, 1)
    assert pool.total == pool.of(1) == common


def test_other_uid_full_pool_finds_room(pool: MemoryPool) -> None:
    """When one uid uses all that it may, another one still gets a sixteenth."""
    pool.charge(1, int(LIMIT * COMMON_SHARE))
    little = int(LIMIT * LITTLE_SHARE)
    assert pool.try_charge(2, little)
    assert not pool.try_charge(2, 1)
    assert pool.try_charge(3, 1)


def test_many_uids_limit_is_never_exceeded(pool: MemoryPool) -> None:
    """The rest is bounded too: all charges together never exceed the limit."""
    pool.charge(1, int(LIMIT * COMMON_SHARE))
    little = int(LIMIT * LITTLE_SHARE)
    admitted = [uid for uid in range(2, 10) if pool.try_charge(uid, little)]
    assert admitted == [2, 3, 4, 5]
    assert pool.total == LIMIT
    assert not pool.try_charge(99, 1)


def test_rejected_charge_changes_nothing(pool: MemoryPool) -> None:
    """A rejected charge leaves no trace of its uid."""
    assert not pool.try_charge(1, LIMIT + 1)
    assert pool.total == 0
    assert not pool.by_uid()


def test_released_uid_leaves_the_table(pool: MemoryPool) -> None:
    """A uid whose charges are all released is forgotten."""
    pool.charge(1, 5)
    pool.charge(1, 7)
    pool.release(1, 5)
    assert pool.by_uid() == {1: 7}
    pool.release(1, 7)
    assert not pool.by_uid()
    assert pool.total == 0


def test_accounts_pools_share_the_limit() -> None:
    """The pools have fixed shares of one limit, which a reload may change."""
    accounts = MemoryAccounts(8000)
    limits = [accounts.requests.limit_bytes, accounts.streams.limit_bytes, accounts.app_metrics.limit_bytes]
    assert limits == [4000, 3000, 1000]
    assert sum(POOL_SHARES.values()) == 1
    accounts.resize(800)
    assert accounts.requests.limit_bytes == 400


def test_accounts_sums_cover_all_pools() -> None:
    """The sums by uid and by kind cover all pools."""
    accounts = MemoryAccounts(10**6)
    accounts.requests.charge(1, 1)
    accounts.streams.charge(1, 20)
    accounts.streams.charge(2, 100)
    accounts.app_metrics.charge(2, 4000)
    assert list(accounts.by_uid().items()) == [(2, 4100), (1, 21)]
    assert {kind: pool.total for kind, pool in accounts.pools.items()} == {
        "requests": 1,
        "streams": 120,
        "app_metrics": 4000,
        "buffers": 0,
    }
