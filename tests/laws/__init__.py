"""The oracles that property tests and simulation judge the daemon by.

====================  =====================================================  ===============================================
oracle                judges                                                 planted bugs that no other oracle finds
====================  =====================================================  ===============================================
`reference_model`     every reply, counter and ledger sum, predicted from    an expired entry is served; a stale answer
and                   the design (worlds without streams, stores and         beyond the begin's limit; a refresh too early;
`reference_entries`   scarce backends)                                       a failure remembered for ever; a lifetime
                                                                             ignored; a wait that saves less than nothing;
                                                                             a waiter of an unresponsive process elected
`event_checker`       laws 1 to 5, 8 and 10 on events and effects, in all    an append by another than the holder; a lease
                      worlds: one lease a key, one final reply a caller,     that outlives its holder's silence where no
                      deadlines, fences, elections, what may be stored       caller waits; elections that are not counted
`backend_checker`     laws 10, 11: breakers (`reference_breaker`), limits,   all of breakers, limits per minute, queues and
                      queues, routes, budgets, sovereignty; nobody waits     budgets, such as a probe without an outcome
                      beside a free backend; every backend recovers          that stays out
`table_checker`       the engine's own tables: permits, bytes, timers,       a permit, a reservation or a stream's bytes
                      queues, states of flights; nothing is left at the end  that stay taken; a timer of a caller that left
`view_checker`        views, by effects: what readers find at each step,     slots or space that are reused without being
                      who receives a file, its places, its bounds; the       withdrawn; files beyond their budget; a view of
                      event checker and the model compare what is found      another's namespace
`answer_checker`      what apps receive: whose answer, whole, in order,      a late reader that misses a chunk; a client
                      not removed, in time; each call ends once              that takes a broken stream for a whole one
====================  =====================================================  ===============================================

Two more are about one subject alone and stand in its test: what readers of a stream see (`test_stream_schedules`), and what
several hosts see of one store (`test_store_schedules`): removed entries, claims, claims that stay.

The bugs are in `tests.simulation.mutants` and `tests.simulation.schedule_mutants`. Removed, because each bug that it found was
found by the model too: a referee of the model's own worlds. The event checker has its laws that hold in every world.
"""
