"""An app of one project: calls its functions, and shows the key and the source of each call.

Run with the project's directory as the working directory: ``project_worker.py SOCKET MODULE``.
"""

import importlib
import json
import sys
from pathlib import Path

from sidecard_client import Client


def main(path: str, name: str) -> None:
    """Call what a module offers, and print one JSON object."""
    sys.path.insert(0, str(Path.cwd()))
    functions = importlib.import_module(name).FUNCTIONS
    with Client(path) as client:
        shown = {
            what: [client.explain(function, "q").key, client.outcome(function, "q").source]
            for what, function in functions.items()
        }

    print(json.dumps(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
