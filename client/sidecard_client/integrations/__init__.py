"""Libraries that make LLM calls by other means than httpx. Each module needs its library, and is imported by name only."""
