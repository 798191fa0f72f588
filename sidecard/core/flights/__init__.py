"""Flights: which caller computes a key, which callers wait for it, and which of them computes it next.

`flight`, `participants` and `table` hold the state. `grants`, `election`, `queues` and `leases` decide which caller gets a lease.
`requests` has one module for each request about a call, and for the events `deadlines`, `disconnect` and `drain`. `store` has
everything that involves the second tier.
"""
