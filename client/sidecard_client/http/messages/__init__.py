"""HTTP messages of httpx and httpx2: what is sent, what comes back, and how it is encoded."""
