"""The call log: one row per call, in SQLite or PostgreSQL."""
