"""Enumerate the mutants of a module: each changes one small thing in its syntax tree. Pure."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
REMOVABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)

CONTROL = -1
"""The number of a mutant without a change, which must survive."""

UNMUTATED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "type_params"})
UNMUTATED_FUNCTIONS = frozenset({"__repr__", "__rich_repr__"})
UNMUTATED_NAMES = frozenset({"__slots__", "__all__", "__match_args__"})


@dataclass(frozen=True)
class Mutant:
    """One change. ``function_line`` is the first line of the innermost function, decorators included; 0 outside functions."""

    path: str
    number: int
    """Which of the module's mutants."""
    kind: str
    line: int
    function_line: int
    before: str
    after: str


@dataclass(frozen=True)
class _Change:
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    kind: str
    replacement: ast.AST
    statement: ast.stmt
    function_line: int

    def apply(self) -> None:
        """Change the tree in place."""
        if self.index is None:
            setattr(self.parent, self.field, self.replacement)
        else:
            getattr(self.parent, self.field)[self.index] = self.replacement


def enumerate_mutants(path: str, source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its text."""
    tree = ast.parse(source)
    mutants: list[Mutant] = []
    for number, change in enumerate(_changes(tree)):
        before = _headline(change.statement)
        original = change.node
        change.apply()
        statement = change.replacement if change.node is change.statement else change.statement
        after = _headline(statement)
        _Change(**{**change.__dict__, "replacement": original}).apply()
        line = getattr(change.node, "lineno", change.statement.lineno)
        mutants.append(Mutant(path, number, change.kind, line, change.function_line, before, after))

    return mutants


def mutate(source: str, number: int) -> ast.Module:
    """Return the tree of a module with one of its mutants, or unchanged for `CONTROL`."""
    tree = ast.parse(source)
    if number == CONTROL:
        return tree

    for position, change in enumerate(_changes(tree)):
        if position == number:
            change.apply()
            return ast.fix_missing_locations(tree)

    raise IndexError(number)


def _headline(statement: ast.AST) -> str:
    """Return a statement as text, of a compound one only its first line."""
    shown = copy.copy(statement)
    if isinstance(shown, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        shown.body = [ast.Expr(ast.Constant(...))]
        shown.decorator_list = []
    elif isinstance(shown, ast.If | ast.For | ast.While | ast.With | ast.AsyncWith | ast.AsyncFor):
        shown.body = [ast.Expr(ast.Constant(...))]
        if hasattr(shown, "orelse"):
            shown.orelse = []

    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(shown)))


def _changes(tree: ast.Module) -> Iterator[_Change]:
    """Yield the changes of a tree. A consumer may apply one, but must undo it before it takes the next."""
    yield from _visit(tree, tree.body[0] if tree.body else ast.Pass(), 0)


def _visit(parent: ast.AST, statement: ast.stmt, function_line: int) -> Iterator[_Change]:
    for field, value in list(ast.iter_fields(parent)):
        # Keywords of a class say how its fields are stored.
        if field in UNMUTATED_FIELDS or (field == "keywords" and isinstance(parent, ast.ClassDef)):
            continue

        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_unmutated(node, parent):
                continue

            inner, line = (node if isinstance(node, ast.stmt) else statement), function_line
            for kind, replacement in _replacements(node, parent):
                yield _Change(parent, field, index, node, kind, replacement, inner, line)

            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                line = min([node.lineno, *(one.lineno for one in node.decorator_list)])

            yield from _visit(node, inner, line)


def _is_unmutated(node: ast.AST, parent: ast.AST) -> bool:
    """Return whether a part has no meaning that a test could check: docstrings, messages, imports, types."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True

    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True

    if isinstance(node, ast.FunctionDef) and node.name in UNMUTATED_FUNCTIONS:
        return True

    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True

    if isinstance(node, ast.Assign) and any(
        isinstance(one, ast.Name) and one.id in UNMUTATED_NAMES for one in node.targets
    ):
        return True

    # The message of an exception, and the type of a cast.
    if isinstance(parent, ast.Call) and isinstance(node, ast.Constant) and isinstance(node.value, str):
        called = parent.func.id if isinstance(parent.func, ast.Name) else ""
        return called in {"cast", "TypeVar", "ParamSpec", "NewType", "getLogger"} or called.endswith(
            ("Error", "Refused")
        )

    return False


def _operators(node: ast.BinOp) -> Iterator[ast.operator]:
    return (one.op for one in ast.walk(node) if isinstance(one, ast.BinOp))


def _replacements(node: ast.AST, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for kind, replacement in [*_other_operators(node), *_other_flow(node, parent)]:
        yield kind, ast.copy_location(replacement, node)


def _other_operators(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield "comparison", ast.Compare(node.left, [other()], node.comparators)
        case ast.BoolOp():
            yield "boolean", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield "negation removed", node.operand
        case ast.UnaryOp(op=ast.USub()):
            yield "sign removed", node.operand
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield "arithmetic", ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        case ast.AugAssign() if type(node.op) in OPERATORS:
            yield "arithmetic", ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)


def _other_flow(node: ast.AST, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            changed = copy.copy(node)
            changed.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
            yield "condition negated", changed
        case ast.Constant():
            yield from (("constant", ast.Constant(other)) for other in _other_constants(node.value))
        # None means as much as False to most callers.
        case ast.Return(value=ast.expr() as returned) if ast.unparse(returned) not in {"None", "False"}:
            yield "return", ast.Return(ast.Constant(None))
        case ast.Call(func=ast.Name(id=name)) if name in TWINS:
            twin = ast.copy_location(ast.Name(TWINS[name], ast.Load()), node.func)
            yield "twin", ast.Call(twin, node.args, node.keywords)

    if isinstance(node, REMOVABLE) and not isinstance(parent, ast.Module | ast.ClassDef):
        yield "statement removed", ast.Pass()


def _other_constants(value: object) -> list[str | bytes | bool | int | float]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [value * 2 if value else 1.0]
        # Text for people has spaces.
        case str() if " " not in value:
            return [f"{value}x"]
        case bytes():
            return [value + b"x"]
        case _:
            return []
