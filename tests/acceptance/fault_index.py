"""The faults that sidecard must stand, and the tests that inject each: by either client, plain and streamed.

`FAULTS` is checked against the tests that there are, so that none is renamed or removed unnoticed. What they inject, and what
that costs, is counted: ``pytest --faults -m "not bench and not model and not container" tests`` prints it.

What must hold in each: every caller has exactly one end by its deadline; upstream calls of a key are no more than one and the
elections; no part of a stream is taken for the whole, or kept; the daemon and all others go on; nothing is left behind.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

A = "tests/acceptance/"
I = "tests/integration/"  # noqa: E741 - beside A and U, and as long
U = "tests/unit/"

CLIENTS_AND_SHAPES = ("sync plain", "sync stream", "async plain", "async stream")

HOLDERS = A + "test_faults_of_holders.py::"
WAITERS = A + "test_faults_of_waiters.py::"
DAEMONS = A + "test_faults_of_daemons.py::"
BYTES = A + "test_faults_of_bytes.py::"
GARBAGE = A + "test_serve.py::test_garbage_is_answered_by_an_error_and_affects_no_other_peer"
MULTITUDES = A + "test_faults_of_multitudes.py::"
RESOURCES = A + "test_faults_of_resources.py::"


class Fault(NamedTuple):
    """A fault, and its tests: those that take the client and the shape as parameters or are about neither, and others.

    Of a test whose parameters are several faults, ``[`` and the beginning of its id says which are meant.
    """

    what: str
    everybody: tuple[str, ...] = ()
    only: Mapping[str, tuple[str, ...]] = {}
    """By one of `CLIENTS_AND_SHAPES`, where a test is of that one alone."""

    @property
    def tests(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.everybody, *(test for tests in self.only.values() for test in tests))


FAULTS = {
    1: Fault(
        "holder SIGKILL before, within and after its pieces",
        (
            HOLDERS + "test_killed_holder_costs_one_more_call_and_delivers_no_partial_answer",
            A + "test_sharing.py::test_holder_killed_in_mid_call_costs_one_more_upstream_call",
            A + "test_streams_shared.py::test_killed_holder_of_a_stream_leaves_no_partial_answer",
        ),
    ),
    2: Fault(
        "holder SIGSTOP beyond its lease, SIGCONT, commit",
        (
            HOLDERS + "test_holder_frozen_beyond_its_lease_is_refused",
            A + "test_sharing.py::test_holder_frozen_beyond_its_lease_is_replaced_and_refused",
        ),
    ),
    3: Fault(
        "holder cancelled",
        (
            HOLDERS + "test_interrupted_holder_is_replaced",
            WAITERS + "test_holder_canceled_at_each_await_leaves_the_waiter_an_answer",
        ),
    ),
    4: Fault(
        "waiter cancelled at each await",
        (),
        {
            "sync plain": (WAITERS + "test_blocking_waiter_interrupted_at_each_step_affects_no_other_caller",),
            "sync stream": (WAITERS + "test_blocking_waiter_interrupted_at_each_step_affects_no_other_caller",),
            "async plain": (
                WAITERS + "test_waiter_canceled_at_each_await_affects_no_other_caller",
                I + "test_async_cancellation.py::test_a_call_canceled_while_it_waits_withdraws_its_begin",
            ),
            "async stream": (WAITERS + "test_waiter_canceled_at_each_await_affects_no_other_caller",),
        },
    ),
    5: Fault(
        "waiter SIGKILL",
        (
            WAITERS + "test_killed_waiters_affect_no_other_caller",
            A + "test_streams_shared.py::test_killed_followers_affect_no_other_reader",
        ),
    ),
    6: Fault(
        "daemon SIGKILL with 100 waiters",
        (
            DAEMONS + "test_killed_daemon_fails_no_waiter",
            A + "test_sharing.py::test_killed_daemon_fails_no_call_and_is_used_after_its_restart",
            A + "test_streams_shared.py::test_killed_daemon_leaves_no_partial_stream",
        ),
    ),
    7: Fault(
        "daemon SIGTERM in the middle of a call",
        (
            DAEMONS + "test_stopping_daemon_lets_the_call_in_progress_end",
            A + "test_serve.py::test_drain_lets_the_holder_complete_for_its_waiter",
            A + "test_serve.py::test_drain_beyond_its_time_rejects_waiters",
        ),
    ),
    8: Fault(
        "daemon restarted, old fence used",
        (HOLDERS + "test_completion_sent_to_a_restarted_daemon_changes_nothing",),
    ),
    9: Fault(
        "half a frame, then the end",
        (BYTES + "test_partial_begin_holds_nothing", A + "test_serve.py::test_partial_frame_delays_no_other_peer"),
        {
            "sync plain": (I + "test_sync_client.py::test_invalid_bytes_fall_back",),
            "async plain": (I + "test_async_faults.py::test_invalid_bytes_lead_to_fallback",),
        },
    ),
    10: Fault(
        "frames of 2^32-1, 0 and -2^31 bytes",
        (GARBAGE + "[a length of",),
        {
            "sync plain": (I + "test_sync_client.py::test_invalid_bytes_fall_back",),
            "async plain": (I + "test_async_faults.py::test_invalid_bytes_lead_to_fallback",),
        },
    ),
    11: Fault(
        "msgpack bombs: depth, huge maps",
        (
            GARBAGE + "[arrays in arrays",
            GARBAGE + "[lists in lists",
            GARBAGE + "[a map",
            GARBAGE + "[bytes that claim",
        ),
    ),
    12: Fault(
        "a JSON line of 10 MB without its end",
        (GARBAGE + "[10 MB",),
    ),
    13: Fault(
        "ids interleaved, ids used twice",
        (
            BYTES + "test_calls_with_ids_in_any_order_receive_their_own_answers",
            BYTES + "test_json_requests_with_ids_in_any_order_receive_their_own_answers",
            A + "test_serve.py::test_id_used_twice_is_rejected_and_the_first_is_answered",
            U + "core/test_engine_streams.py::test_an_id_whose_stream_is_still_being_read_cannot_be_used_again",
        ),
        {
            "sync plain": (I + "test_sync_client.py::test_many_threads_never_get_anothers_answer",),
            "async plain": (I + "test_async_client.py::test_a_thousand_calls_share_one_connection",),
        },
    ),
    14: Fault(
        "a reader that never reads",
        (
            A + "test_serve.py::test_peer_that_never_reads_is_closed_and_delays_no_other",
            I + "test_slow_readers.py::test_a_reader_that_never_reads_is_closed_and_its_memory_freed",
            I + "test_slow_readers.py::test_a_slow_follower_does_not_slow_the_holder",
        ),
    ),
    15: Fault(
        "no descriptors left in accept",
        (
            RESOURCES + "test_daemon_without_descriptors_serves_its_peers_and_recovers",
            I + "test_socket_monitor.py::test_exhausted_descriptors_are_logged_at_begin_and_end",
            A + "test_serve.py::test_daemon_with_fewer_descriptors_than_peers_warns_and_serves",
        ),
    ),
    16: Fault(
        "10,000 connections",
        (
            RESOURCES + "test_ten_thousand_connections_are_admitted_up_to_the_limit_and_leave_nothing",
            U + "server/test_connection.py::test_a_peer_above_the_limit_is_closed",
        ),
    ),
    17: Fault(
        "fork with an open connection",
        (),
        {
            "sync plain": (
                HOLDERS + "test_fork_during_a_call_disturbs_neither_process",
                I + "test_sync_client.py::test_a_fork_while_others_wait_and_hold",
                I + "test_sync_client.py::test_a_real_daemon_shares_between_threads_and_forks",
            ),
            "sync stream": (HOLDERS + "test_fork_during_a_call_disturbs_neither_process",),
            "async plain": (
                I + "test_async_faults.py::test_a_forked_child_opens_its_own_and_does_not_keep_the_connection",
            ),
            "async stream": (
                I + "test_async_faults.py::test_a_forked_child_opens_its_own_and_does_not_keep_the_connection",
            ),
        },
    ),
    18: Fault("wall clock set by a day", (DAEMONS + "test_jump_of_the_wall_clock_moves_no_deadline",)),
    19: Fault(
        "ENOSPC, EIO, EROFS under the spool and the store",
        (
            I + "test_push.py::test_a_failing_disk_loses_no_block",
            U + "observe/push/test_spool.py::test_a_failed_write_leaves_the_earlier_blocks",
            A + "test_disk.py::test_full_disk_fails_no_call",
            A + "test_disk.py::test_read_only_disk_fails_no_call",
        ),
    ),
    20: Fault(
        "spool truncated, bits flipped",
        (
            U + "observe/push/test_spool.py::test_a_torn_end_loses_only_the_incomplete_record",
            U + "observe/push/test_spool.py::test_a_damaged_record_loses_the_rest_of_its_file",
            U + "observe/push/test_spool_against_model.py::test_no_crash_loses_repeats_or_reorders_a_block",
            U + "observe/push/test_spool_against_model.py::test_no_damage_stops_the_queue_or_invents_a_block",
        ),
    ),
    21: Fault(
        "Redis down, slow, reset, failing over, read-only, full, moving, restarted",
        (
            A + "test_redis_outages.py::test_redis_that_starts_later_receives_pending_entries",
            A + "test_redis_outages.py::test_redis_restarted_empty_loses_only_its_entries",
            A + "test_redis_outages.py::test_unresponsive_redis_slows_no_hit",
            A + "test_redis_outages.py::test_full_redis_is_read_and_reported",
            A + "test_redis_outages.py::test_read_only_replica_is_read_and_reported",
            A + "test_redis_outages.py::test_redis_connections_cut_every_50_ms_fail_no_call",
            A + "test_redis_addresses.py::test_sentinel_failover_under_load_fails_no_call",
            A + "test_redis_addresses.py::test_cluster_slots_moved_under_load_fail_no_call",
            A + "test_many_hosts.py::test_server_that_hangs_during_a_flight_delays_no_host",
            I + "test_redis_connection.py::test_a_lost_connection_fails_its_commands",
            I + "test_redis_connection.py::test_an_unknown_script_is_sent_as_text",
        ),
    ),
    22: Fault(
        "a message of Redis lost", (A + "test_many_hosts.py::test_missed_invalidation_makes_the_host_ask_again",)
    ),
    23: Fault(
        "target of pushes: 400, 429, 500, time-out, half-close, outage",
        (
            RESOURCES + "test_push_target_that_hangs_up_receives_every_sample_later",
            I + "test_push.py::test_postponed_blocks_arrive_later",
            I + "test_push.py::test_a_refused_block_is_dropped_alone",
            I + "test_push.py::test_close_does_not_wait_for_a_hanging_target",
            I + "test_push_servers.py::test_victoria_metrics_has_no_gap_after_an_outage",
            A + "test_metrics_pushed.py::test_metrics_pushed_after_outage_and_kill_have_no_gap_and_no_duplicate",
        ),
    ),
    24: Fault(
        "memory full of what is in flight",
        (
            RESOURCES + "test_memory_full_of_streams_prevents_no_call",
            U + "core/test_engine_streams.py::test_a_stream_that_outgrows_its_room_goes_on_unshared",
            U + "core/cache/test_memory.py::test_put_of_too_large_a_value_is_refused_and_removes_the_older_one",
        ),
    ),
    25: Fault(
        "keys of 64 KiB, of nothing, of no UTF-8",
        (
            BYTES + "test_invalid_keys_raise_in_the_client_before_anything_is_sent",
            BYTES + "test_invalid_keys_on_the_wire_are_rejected_and_the_connection_stays",
        ),
    ),
    26: Fault(
        "a uid that is not allowed",
        (
            DAEMONS + "test_uid_without_access_makes_its_own_calls",
            A + "test_user_namespaces.py::test_unmapped_uid_is_rejected_with_the_reason",
            U + "core/test_engine_entries.py::test_another_uids_namespace_is_denied_by_every_op",
        ),
    ),
    27: Fault(
        "the socket's file deleted",
        (
            DAEMONS + "test_deleted_socket_file_is_recreated_and_connections_stay",
            I + "test_socket_monitor.py::test_a_removed_socket_file_is_recreated",
            I + "test_socket_monitor.py::test_the_socket_of_another_daemon_is_left_alone",
        ),
    ),
    28: Fault(
        "two daemons at one path",
        (
            A + "test_serve.py::test_second_daemon_on_one_path_explains_and_exits",
            A + "test_backends.py::test_second_daemon_of_a_state_directory_runs_without_it",
            I + "test_daemon_socket.py::test_two_listeners_exclude_each_other_by_the_lock",
        ),
    ),
    29: Fault(
        "delete racing with the commit",
        (
            HOLDERS + "test_delete_that_races_with_the_completion_prevents_storing",
            A + "test_many_hosts.py::test_delete_voids_the_flight_of_another_host",
        ),
    ),
    30: Fault(
        "a breaker's probe dies",
        (
            HOLDERS + "test_probe_whose_holder_dies_is_replaced",
            A + "test_backends.py::test_probe_after_a_dead_holder_is_sent_immediately",
        ),
    ),
    31: Fault(
        "100,000 waiters give up",
        (MULTITUDES + "test_hundred_thousand_timed_out_waiters_leave_no_memory_in_the_daemon",),
        {
            "async plain": (
                MULTITUDES + "test_canceled_waiters_leave_no_memory_in_the_client",
                I + "test_async_cancellation.py::test_canceled_waits_leave_nothing_behind",
            ),
            "async stream": (MULTITUDES + "test_canceled_waiters_leave_no_memory_in_the_client",),
        },
    ),
    32: Fault(
        "event loop stalls, watchdog",
        (
            DAEMONS + "test_stalled_loop_is_ended_by_the_watchdog_and_fails_no_call",
            A + "test_booted_systemd.py::test_a_loop_that_is_blocked_is_restarted_by_the_watchdog",
            A + "test_sharing.py::test_waiters_of_a_freezing_daemon_end_within_a_second",
        ),
    ),
}


@cache
def names_of(path: str) -> frozenset[str]:
    """Return the tests of a file."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def table(passed: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Say for each fault how often those tests that passed have injected it, and what became of the callers it met."""
    counted: dict[str, Counter[str]] = {}
    for node, properties in passed:
        # A test that does not count injects its fault once at least.
        injected, callers, notified, lost = properties.get("injected", (1, 0, 0, 0))
        counted[node] = Counter(tests=1, injected=injected, callers=callers, notified=notified, lost=lost)

    lines = [f"{'':2}  {'fault':<74} {'tests':>5} {'injected':>9} {'callers':>8} {'notified':>8} {'lost':>5}"]
    for number, fault in FAULTS.items():
        total = Counter[str]()
        for node, counts in counted.items():
            if any(node.partition("[")[0] == test or ("[" in test and node.startswith(test)) for test in fault.tests):
                total.update(counts)

        columns = f"{total['tests']:>5} {total['injected']:>9} {total['callers']:>8} {total['notified']:>8} {total['lost']:>5}"
        lines.append(f"{number:>2}  {fault.what:<74} {columns}")

    return lines
