"""A scripted model in a separate process, so that it takes no time from the measuring process. Prints its URL."""

import sys

from tests.llm_servers import ScriptedModel

if __name__ == "__main__":
    with ScriptedModel() as model:
        print(model.url, flush=True)
        sys.stdin.read()
