"""Dead files: modules of perdure/ that no entry point leads to.

An edge is an import anywhere in a file, a dotted `perdure.…` text (the lazy tables of app.py), or
the name of a neighbouring file (a helper that is started as a script).
"""

import ast
import re
from collections.abc import Iterator, Mapping

from tests.tidy.sources import Source, imported_modules

DOTTED = re.compile(r"^perdure(\.\w+)+")


def dead_modules(sources: list[Source]) -> list[str]:
    """The paths that cannot be reached from the package, the command or the public test kit."""
    modules = {source.module: source for source in sources if source.folder == "perdure"}
    todo = [name for name in modules if is_entry_point(name)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(leads_to(modules[name], modules))
    return sorted(modules[name].path for name in modules.keys() - seen)


def is_entry_point(module: str) -> bool:
    return module in {"perdure", "perdure.__main__", "perdure.sync"} or module.startswith(
        "perdure.testing"
    )


def leads_to(source: Source, modules: Mapping[str, Source]) -> Iterator[str]:
    named = [name for _, name in imported_modules(source)]
    package = source.module if source.path.endswith("__init__.py") else parent(source.module)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if found := DOTTED.match(node.value):
                named.append(found[0])
            elif node.value.endswith(".py"):
                named.append(f"{package}.{node.value.removesuffix('.py')}")
    for name in named:
        yield from (each for each in with_parents(name) if each in modules)


def with_parents(name: str) -> Iterator[str]:
    """Importing a.b.c runs a, a.b and a.b.c."""
    while name:
        yield name
        name = parent(name)


def parent(name: str) -> str:
    return name.rpartition(".")[0]
