"""Run an app of this folder call by call: ``python run.py APP URL alone|shared``.

It runs in the app's own environment, with the standard library alone. Without sidecard, the lines that end with ``# sidecard`` are
left out, so that these lines are all that an app changes. Each line of the standard input names a call. Its result, or the
exception's, is printed as one line of JSON.
"""

import asyncio
import dataclasses
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

MARK = "# sidecard"


def plain(value: Any) -> Any:
    """Return ``value`` as JSON, with the names of classes where fields alone do not tell them apart."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value

    return repr(value)


async def _all(stream: Any) -> list[Any]:
    return [part async for part in stream]


def main() -> None:
    """Run."""
    app, url, mode = sys.argv[1:]
    # Frameworks print what they like.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ["UPSTREAM"] = url
    source = Path(app).read_text(encoding="utf-8")
    if mode == "alone":
        source = "\n".join("" if line.endswith(MARK) else line for line in source.split("\n"))

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    names: dict[str, Any] = {"__name__": "app", "__file__": app}
    exec(compile(source, app, "exec"), names)  # noqa: S102 - the app, with or without its marked lines
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        call = names[line.strip()]
        try:
            result = call()
            if inspect.isasyncgen(result):
                result = loop.run_until_complete(_all(result))
            elif inspect.isawaitable(result):
                result = loop.run_until_complete(result)
            elif inspect.isgenerator(result):
                result = list(result)

            reply = {"result": plain(result)}
        except Exception as error:  # noqa: BLE001 - part of what is compared
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}

        print(json.dumps(reply), file=replies, flush=True)

    replies.flush()
    os._exit(0)  # some frameworks' threads and atexit handlers take seconds


if __name__ == "__main__":
    main()
