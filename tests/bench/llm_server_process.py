"""A scripted model in a process of its own, so that it takes no time of the one that measures. Prints its address."""

import sys

from tests.llm_servers import ScriptedModel

if __name__ == "__main__":
    with ScriptedModel() as model:
        print(model.url, flush=True)
        sys.stdin.read()
