"""Flights: who computes a key, who waits for it, and who computes it next.

`flight`, `participants` and `table` hold the state. `grants`, `election`, `queues` and `leases` decide who gets a lease.
`requests` has one module for each request about a call, and for the events `deadlines`, `disconnect` and `drain`. `store` has
everything that involves the second tier.
"""
