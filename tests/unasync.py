"""Generate the blocking client's files from the asynchronous client's: ``python -m tests.unasync`` writes them.

Tokens are translated, in docstrings as in code, and overloads for asynchronous functions are left out. A file is
generated only if nothing else differs; all others of ``_sync`` are written by hand.
"""

import ast
import io
import itertools
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parent.parent / "client/sidecard_client"

GENERATED: Final = ("client.py",)

HEADER: Final = "# Generated from {source} by `python -m tests.unasync`: change that file, and run it.\n\n"

NAMES: Final = {
    "AsyncClient": "Client",
    "AsyncDecorator": "Decorator",
    "AsyncInterpreter": "Interpreter",
    "AsyncLifecycle": "Lifecycle",
    "AsyncStream": "Stream",
    "AsyncStreamFunctions": "StreamFunctions",
    "_async": "_sync",
}

TEXTS: Final = (
    (re.compile(r"\basync (with|for) "), r"\1 "),
    (re.compile(r"\bawait "), ""),
    (re.compile(r"\bThe asynchronous client\b"), "The blocking client"),
    (re.compile(r"^# type: ignore\[misc\].*$"), ""),
    (re.compile(rf"\b({'|'.join(NAMES)})\b"), lambda match: NAMES[match[1]]),
)


def translate(source: str) -> str:
    """Return the blocking version of asynchronous code."""
    source = _without_overloads(source)
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token, following in reversed(list(itertools.pairwise(tokens))):
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        text = token.string
        if token.type == tokenize.NAME and text in {"async", "await"}:
            end, text = starts[following.start[0] - 1] + following.start[1], ""
        elif token.type == tokenize.NAME:
            text = NAMES.get(text, text)
        elif token.type in {tokenize.STRING, tokenize.COMMENT}:
            for pattern, replacement in TEXTS:
                text = pattern.sub(replacement, text)

        source = source[:start] + text + source[end:]

    return source


def generate(name: str) -> str:
    """Return what the generated file ``name`` must hold, formatted."""
    source = PACKAGE / "_async" / name
    code = HEADER.format(source=f"_async/{name}") + translate(source.read_text())
    command = [sys.executable, "-m", "ruff", "format", "-q", "--stdin-filename", str(PACKAGE / "_sync" / name), "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)


def _without_overloads(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_overload(node):
            first, last = node.decorator_list[0].lineno, node.end_lineno or node.lineno
            lines[first - 1 : last] = [""] * (last - first + 1)

    return "".join(lines).replace("AsyncFunctions, ", "").replace("cast, overload", "cast")


def main() -> None:
    """Write all generated files."""
    for name in GENERATED:
        (PACKAGE / "_sync" / name).write_text(generate(name))


if __name__ == "__main__":
    main()
