"""Write the generated sections of the documentation, and the example of all settings: ``python -m tests.generated_docs``."""

import argparse
import re
from pathlib import Path

from tests import families_reference, metrics_reference, settings_reference

DOCS = Path(__file__).parents[1] / "sidecard" / "docs"

EXAMPLE = DOCS.parent / "example.toml"

SECTIONS = {
    "configuration": ("settings", settings_reference.markdown),
    "metrics": ("metrics", metrics_reference.markdown),
    "sdks": ("families", families_reference.markdown),
}
"""For each page, the name of its generated section and the function that returns it."""


def generated(page: str) -> str:
    """Return the text of a page with its section regenerated."""
    name, markdown = SECTIONS[page]
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    start, end = f"<!-- generated: {name} -->\n", "<!-- end -->\n"
    pattern = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    found = pattern.search(text)
    if found is None:
        raise ValueError(f"{page}.md has no section between {start!r} and {end!r}")

    return f"{text[: found.start()]}{start}\n{markdown()}\n{end}{text[found.end() :]}"


def main() -> None:
    """Write every page, and the example."""
    argparse.ArgumentParser(
        prog="python -m tests.generated_docs", description="Write the generated sections of the documentation."
    ).parse_args()
    for page in SECTIONS:
        (DOCS / f"{page}.md").write_text(generated(page), encoding="utf-8")

    EXAMPLE.write_text(settings_reference.example_toml(), encoding="utf-8")


if __name__ == "__main__":
    main()
