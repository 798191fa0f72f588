"""HTTP messages of httpx and httpx2: requests, responses, bodies and encodings."""
