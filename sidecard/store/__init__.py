"""The second tier behind the memory cache: SQLite on one host, Redis for many."""
