"""The project's Python files, parsed once, for rules to look at."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("perdure", "tests", "examples", "bench")


@dataclass(frozen=True)
class Source:
    """One Python file: where it is, below the project's root, and what it says."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def folder(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def module(self) -> str:
        dotted = self.path.removesuffix(".py").replace("/", ".")
        return dotted.removesuffix(".__init__")

    def at(self, node: ast.expr | ast.stmt, complaint: str) -> str:
        """A finding that an editor can jump to."""
        return f"{self.path}:{node.lineno}: {complaint}"


def read_sources(root: Path = ROOT) -> list[Source]:
    """Every Python file below the project's code folders, in a stable order."""
    return [
        Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
    ]


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` for such an expression, and an empty text for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            base = dotted_name(value)
            return f"{base}.{attr}" if base else ""
        case _:
            return ""


def local_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name of a file stands for: `{"sleep": "asyncio.sleep"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Every call of a file with the full name of what it calls, imports resolved."""
    names = local_names(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            first, dot, rest = dotted_name(node.func).partition(".")
            yield node, names.get(first, first) + dot + rest


def imported_modules(source: Source) -> Iterator[tuple[ast.stmt, str]]:
    """Every module or name a file imports, dotted, with the statement that does it."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def functions(source: Source) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function of a file and the number of lines from its `def` to its end."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1
