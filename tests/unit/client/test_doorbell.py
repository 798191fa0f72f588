"""The doorbell: it wakes its thread, and leaves the files of an app that has closed its descriptors alone."""

import os
import tempfile

import pytest

from sidecard_client.doorbell import Doorbell


def test_ring_ends_the_wait_or_the_next_one() -> None:
    """Any number of rings count as one."""
    bell = Doorbell()
    for _ in range(3):
        bell.ring()

    assert bell.wait(60.0) == set()
    reader, writer = os.pipe()
    os.write(writer, b"x")
    assert bell.wait(60.0, [reader]) == {reader}, "the rings are over"
    os.close(reader)
    os.close(writer)


def test_ring_that_finds_a_full_pipe_is_one_of_many() -> None:
    """The garbage collector may ring: nothing is raised, and nothing blocks."""
    bell = Doorbell()
    for _ in range(100_000):
        bell.ring()

    assert bell.wait(60.0) == set()


@pytest.mark.parametrize("closed", [False, True])
def test_files_with_the_numbers_of_closed_descriptors_are_left_alone(closed: bool) -> None:
    """Neither written, nor read, nor closed; the wait fails, so that the thread ends."""
    bell = Doorbell()
    numbers = bell._reader, bell._writer
    with tempfile.TemporaryFile() as file:
        for number in numbers:
            os.close(number) if closed else os.dup2(file.fileno(), number)

        bell.ring()
        with pytest.raises(OSError, match="descriptor"):
            bell.wait(60.0)

        del bell
        assert os.fstat(file.fileno()).st_size == 0
        if not closed:
            for number in numbers:
                os.close(number)


def test_wait_ends_when_the_app_closes_the_descriptors() -> None:
    """The reader's end reports that its other end is closed."""
    bell = Doorbell()
    os.close(bell._writer)
    with pytest.raises(OSError, match="descriptor"):
        bell.wait(60.0)
