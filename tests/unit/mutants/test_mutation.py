"""The mutants of a module."""

import ast

from tests.mutants.mutation import CONTROL, enumerate_mutants, mutate

SOURCE = '''
"""Docstring."""
LIMIT = 3

def smaller(left: int = 1, right: "int | None" = None) -> bool:
    """Docstring."""
    if right is None or left < LIMIT:
        raise ValueError("message")
    total.append(left + right)
    return not left
'''


def test_mutants_change_one_thing_each() -> None:
    """Comparisons, conditions, arithmetic, constants, returns and statements change; docstrings, types and messages do not."""
    mutants = enumerate_mutants("module.py", SOURCE)

    assert {(mutant.kind, mutant.after) for mutant in mutants} == {
        ("constant", "LIMIT = 4"),
        ("constant", "def smaller(left: int=2, right: 'int | None'=None) -> bool:\n    ..."),
        ("condition negated", "if not (right is None or left < LIMIT):\n    ..."),
        ("boolean", "if right is None and left < LIMIT:\n    ..."),
        ("comparison", "if right is not None or left < LIMIT:\n    ..."),
        ("comparison", "if right is None or left <= LIMIT:\n    ..."),
        ("comparison", "if right is None or left >= LIMIT:\n    ..."),
        ("statement removed", "pass"),
        ("arithmetic", "total.append(left - right)"),
        ("return", "return None"),
        ("negation removed", "return left"),
    }
    assert {mutant.function_line for mutant in mutants} == {0, 5}


def test_mutant_is_found_by_its_number() -> None:
    """The tree of a mutant has its change and no other one."""
    for mutant in enumerate_mutants("module.py", SOURCE):
        changed = ast.unparse(mutate(SOURCE, mutant.number))
        original = ast.unparse(ast.parse(SOURCE))
        first = mutant.after.splitlines()[0]

        assert changed != original
        assert first in changed
        compile(changed, "module.py", "exec")


def test_control_has_no_change() -> None:
    """The control is the module itself, and must survive its tests."""
    assert ast.unparse(mutate(SOURCE, CONTROL)) == ast.unparse(ast.parse(SOURCE))
