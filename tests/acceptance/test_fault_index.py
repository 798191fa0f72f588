"""The index of faults against the tests that there are."""

from tests.acceptance.fault_index import CLIENTS_AND_SHAPES, FAULTS, names_of, table


def test_fault_index_names_existing_tests_for_every_fault() -> None:
    """Each of the 32 faults has tests for both clients, plain and streamed, unless it concerns neither."""
    assert list(FAULTS) == list(range(1, 33))
    for number, fault in FAULTS.items():
        assert fault.everybody or set(fault.only) == set(CLIENTS_AND_SHAPES), number
        assert set(fault.only) <= set(CLIENTS_AND_SHAPES), number
        for test in fault.tests:
            path, _, name = test.partition("::")
            assert name.partition("[")[0] in names_of(path), test


def test_fault_table_adds_up_the_counts_of_tests() -> None:
    """Counts are summed by fault; a passed test without a count counts as one."""
    first, second = FAULTS[22].tests[0], FAULTS[18].tests[0]
    lines = table(
        [
            (first, {}),
            (f"{second}[sync-plain]", {"injected": (3, 2, 1, 0)}),
            (f"{second}[trio-plain]", {"injected": (3, 2, 0, 1)}),
            (f"{FAULTS[12].tests[0]} of a line]", {}),
            ("tests/unit/test_other.py::test_something", {}),
        ]
    )
    rows = {int(line.split()[0]): line.split()[-5:] for line in lines[1:]}
    assert rows[22] == ["1", "1", "0", "0", "0"]
    assert rows[18] == ["2", "6", "4", "1", "1"]
    assert (rows[12][0], rows[11][0]) == ("1", "0")
    assert rows[1] == ["0"] * 5
