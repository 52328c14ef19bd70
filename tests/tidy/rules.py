"""The house rules for one source file. Each rule takes a `Source` and yields what is wrong with it.

Every rule has a planted violation in test_rules.py, so that a rule that no longer sees anything is
itself a failing test.
"""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Final

from tests.tidy.sources import Source, calls, dotted_name, functions, imported_modules

Rule = Callable[[Source], Iterator[str]]

FILE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
FUNCTION_LINES_GOAL: Final = 40

TYPE_IS_CONSTANT: Final = re.compile(
    r"\b(Final|Mapping|Sequence|Set|AbstractSet|frozenset|tuple)\b"
)
MUTABLE_MAKERS: Final = frozenset(
    [
        "list",
        "dict",
        "set",
        "bytearray",
        "collections.defaultdict",
        "collections.deque",
        "collections.Counter",
        "collections.OrderedDict",
        "weakref.WeakKeyDictionary",
        "weakref.WeakValueDictionary",
        "itertools.count",
        "asyncio.Lock",
        "asyncio.Event",
        "asyncio.Queue",
        "threading.Lock",
    ]
)
CODE_FROM_DATA: Final = frozenset(
    [
        "eval",
        "exec",
        "builtins.eval",
        "builtins.exec",
        "os.system",
        "os.popen",
        "asyncio.create_subprocess_shell",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ]
)
CODE_FROM_BYTES: Final = frozenset(["pickle", "marshal", "shelve", "dill", "cloudpickle"])
SLEEPS: Final = frozenset(["time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"])
MOCK_PACKAGES: Final = ("unittest.mock", "mock", "pytest_mock")
UNFINISHED: Final = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")


def file_is_short(source: Source) -> Iterator[str]:
    """No file is longer than FILE_LINES_MAX lines."""
    count = len(source.text.splitlines())
    if count > FILE_LINES_MAX:
        yield f"{source.path}: {count} lines; the limit is {FILE_LINES_MAX}"


def functions_are_short(source: Source) -> Iterator[str]:
    """No function is longer than FUNCTION_LINES_MAX lines."""
    for node, count in functions(source):
        if count > FUNCTION_LINES_MAX:
            yield source.at(node, f"{node.name} has {count} lines; limit {FUNCTION_LINES_MAX}")


def no_module_state(source: Source) -> Iterator[str]:
    """A module of perdure/ holds no list, dict, set or lock that somebody could change."""
    if source.folder != "perdure":
        return
    for node in source.tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or constant_by_type(node):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = ", ".join(dotted_name(target) for target in targets)
        if node.value is not None and is_mutable(node.value) and names != "__all__":
            yield source.at(node, f"module-level mutable state: {names}")
    for statement in ast.walk(source.tree):
        if isinstance(statement, ast.Global):
            yield source.at(statement, f"global {', '.join(statement.names)}")


def constant_by_type(node: ast.Assign | ast.AnnAssign) -> bool:
    if isinstance(node, ast.Assign):
        return False
    return dotted_name(node.target).isupper() and bool(
        TYPE_IS_CONSTANT.search(ast.unparse(node.annotation))
    )


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        name = dotted_name(value.func)
        return name in MUTABLE_MAKERS or any(m.endswith(f".{name}") for m in MUTABLE_MAKERS)
    return isinstance(
        value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    )


def no_code_from_data(source: Source) -> Iterator[str]:
    """perdure/ never runs text or stored bytes as code, and never hands a text to a shell."""
    if source.folder != "perdure":
        return
    for node, name in calls(source):
        if name in CODE_FROM_DATA:
            yield source.at(node, f"{name} runs data as code")
        for keyword in node.keywords:
            off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "shell" and not off:
                yield source.at(node, "shell= hands a text to a shell")
    for statement, module in imported_modules(source):
        if module in CODE_FROM_BYTES:
            yield source.at(statement, f"{module} runs stored bytes as code")


def no_built_sql(source: Source) -> Iterator[str]:
    """SQL has named parameters: nothing is pasted into a statement that is executed."""
    if source.folder != "perdure":
        return
    for node, _ in calls(source):
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        runs_sql = method in {"execute", "executemany", "executescript"}
        if runs_sql and node.args and is_built_text(node.args[0]):
            yield source.at(node, f"{method}() gets a statement put together from pieces")


def is_built_text(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr():
            return any(isinstance(part, ast.FormattedValue) for part in node.values)
        case ast.BinOp(op=ast.Mod() | ast.Add()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
        case _:
            return False


def no_mocks(source: Source) -> Iterator[str]:
    """Tests use real objects and the fakes of perdure.testing; only `sys` may be patched."""
    if source.folder != "tests":
        return
    for statement, module in imported_modules(source):
        if any(module == mock or module.startswith(f"{mock}.") for mock in MOCK_PACKAGES):
            yield source.at(statement, f"{module}: no mocks of our own classes")
    for node, name in calls(source):
        last = name.rpartition(".")[2]
        patches = name.startswith("monkeypatch.") and last in {"setattr", "delattr", "setitem"}
        if patches and not (node.args and dotted_name(node.args[0]).split(".")[0] == "sys"):
            yield source.at(node, f"{name}: pass a collaborator in instead of patching one")
        if last in {"MagicMock", "AsyncMock"}:
            yield source.at(node, f"{last}: no mocks of our own classes")
    for function, _ in functions(source):
        if any(argument.arg == "mocker" for argument in function.args.args):
            yield source.at(function, "mocker: no mocks of our own classes")


def no_sleep_in_tests(source: Source) -> Iterator[str]:
    """A test waits for what happens, never for time to pass; sleep(0) only yields to the loop."""
    if source.folder != "tests":
        return
    for node, name in calls(source):
        zero = bool(node.args) and isinstance(node.args[0], ast.Constant) and not node.args[0].value
        if name in SLEEPS and not (zero and name != "time.sleep"):
            yield source.at(node, f"{name} in a test")


def nothing_unfinished(source: Source) -> Iterator[str]:
    """What is not done is in the tracker or in the docs, not in a marker word."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := UNFINISHED.search(line):
            yield f"{source.path}:{number}: {found[0]}"


RULES: Final[tuple[Rule, ...]] = (
    file_is_short,
    functions_are_short,
    no_module_state,
    no_code_from_data,
    no_built_sql,
    no_mocks,
    no_sleep_in_tests,
    nothing_unfinished,
)
