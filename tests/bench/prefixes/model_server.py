"""llama.cpp's own server in a process: ``python -m tests.bench.prefixes.model_server FILE SLOTS THREADS``.

Prints its URL, and exits when its standard input is closed. Its prompt cache is on, with llama.cpp's own defaults.
"""

import os
import sys
import time
import urllib.error
import urllib.request

import xllamacpp

TOKENS_PER_SLOT = 2048
HEALTH_CHECK_SECONDS = 0.05


def main() -> None:
    """Load the model, print the URL once it answers, and serve."""
    file, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # llama.cpp may write to standard output, which is reserved for the URL.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.offline = slots * TOKENS_PER_SLOT, slots, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.port = 0
    server = xllamacpp.Server(params)
    url = server.listening_address
    while not _healthy(url):
        time.sleep(HEALTH_CHECK_SECONDS)

    print(url, file=output, flush=True)
    sys.stdin.read()
    # At once: the server may still compute answers that nobody waits for.
    os._exit(0)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as response:  # noqa: S310 - of this process
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return False


if __name__ == "__main__":
    main()
