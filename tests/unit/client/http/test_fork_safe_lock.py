"""The lock of what a process shares: a forked child is not stopped by a thread that it does not have."""

import os
import threading

from sidecard_client.http.fork_safe_lock import ForkSafeLock

SECONDS = 10.0


def test_a_forked_child_finds_the_lock_free() -> None:
    """Another thread of the parent holds it at the time of the fork."""
    lock = ForkSafeLock()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert free.wait(SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(SECONDS)
    child = os.fork()
    if child == 0:
        threading.Timer(SECONDS, os._exit, [1]).start()
        with lock:
            os._exit(0)

    _, status = os.waitpid(child, 0)
    free.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
