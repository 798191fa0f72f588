"""Measure LiteLLM's own cache: takes a server's URL and a number of rounds, prints seconds per call as JSON.

Run with the Python that has LiteLLM, which need not be the tests' own.
"""

import json
import sys
import time

import litellm
from litellm.caching.caching import Cache


def main(url: str, rounds: int) -> dict[str, list[float]]:
    """Measure misses and hits of its cache in memory, interleaved: through its ``completion()``, and asked directly (`lookup`)."""
    litellm.cache = Cache(type="local")  # type: ignore[arg-type,unused-ignore]  # its enumeration's value
    litellm.telemetry = False
    times: dict[str, list[float]] = {"miss": [], "hit": [], "lookup": []}
    for number in range(rounds + 20):
        for kind in ("miss", "hit"):
            began = time.perf_counter()
            litellm.completion(
                model="openai/m",
                api_base=f"{url}/v1",
                api_key="k",
                messages=[{"role": "user", "content": f"q {number}"}],
                caching=True,
                max_retries=0,
            )
            if number >= 20:
                times[kind].append(time.perf_counter() - began)

        # Stored before each look-up: the cache keeps 200 answers.
        question = {"model": "m", "messages": [{"role": "user", "content": f"direct {number}"}]}
        litellm.cache.add_cache({"content": "x" * 1024}, **question)
        began = time.perf_counter()
        found = litellm.cache.get_cache(**question)
        seconds = time.perf_counter() - began
        assert found["content"], found
        if number >= 20:
            times["lookup"].append(seconds)

    return times


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
