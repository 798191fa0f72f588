"""Flights: who computes a key, who waits for it, and who is next."""
