"""The memory cache: entries, eviction, freshness, similarity."""
