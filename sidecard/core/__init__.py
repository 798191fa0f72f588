"""The pure core: events in, effects out. It imports nothing that waits, reads a clock, or draws random numbers."""
