"""The sidecard daemon: LLM calls of one host, cached and shared."""
