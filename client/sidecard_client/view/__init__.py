"""The view: hits from memory that the daemon shares, without a round trip."""
