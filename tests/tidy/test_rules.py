"""Each rule sees what it is there for: a planted violation is caught, a clean neighbour is not."""

from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import typer

from tests.tidy import documented, rules
from tests.tidy.reachable import dead_modules
from tests.tidy.sources import Source, read_sources

LONG_FUNCTION = "def f():\n" + "    pass\n" * 60
MARKER = "TO" + "DO"

CAUGHT = [
    (rules.file_is_short, "perdure/a.py", "x = 1\n" * 401),
    (rules.functions_are_short, "perdure/a.py", LONG_FUNCTION),
    (rules.functions_are_short, "tests/a.py", "async " + LONG_FUNCTION),
    (rules.no_module_state, "perdure/a.py", "cache = {}"),
    (rules.no_module_state, "perdure/a.py", "seen: list[str] = []"),
    (rules.no_module_state, "perdure/a.py", "names = [n for n in 'ab']"),
    (rules.no_module_state, "perdure/a.py", "TABLE: dict[str, int] = {'a': 1}"),
    (rules.no_module_state, "perdure/a.py", "table: Final = {}"),
    (rules.no_module_state, "perdure/a.py", "from collections import deque\nq = deque()"),
    (rules.no_module_state, "perdure/a.py", "import asyncio\nlock = asyncio.Lock()"),
    (rules.no_module_state, "perdure/a.py", "def f():\n    global x\n    x = 1"),
    (rules.no_code_from_data, "perdure/a.py", "eval('1')"),
    (rules.no_code_from_data, "perdure/a.py", "def f(): exec('1')"),
    (rules.no_code_from_data, "perdure/a.py", "import os\nos.system('ls')"),
    (rules.no_code_from_data, "perdure/a.py", "from os import system as s\ns('ls')"),
    (rules.no_code_from_data, "perdure/a.py", "import subprocess\nsubprocess.run(x, shell=True)"),
    (rules.no_code_from_data, "perdure/a.py", "import subprocess\nsubprocess.run(x, shell=y)"),
    (rules.no_code_from_data, "perdure/a.py", "import pickle"),
    (rules.no_code_from_data, "perdure/a.py", "from pickle import loads"),
    (rules.no_built_sql, "perdure/a.py", "db.execute(f'select {x}')"),
    (rules.no_built_sql, "perdure/a.py", "db.execute('select %s' % x)"),
    (rules.no_built_sql, "perdure/a.py", "db.executemany('select ' + x)"),
    (rules.no_built_sql, "perdure/a.py", "db.cursor().execute('select {}'.format(x))"),
    (rules.no_mocks, "tests/a.py", "from unittest import mock"),
    (rules.no_mocks, "tests/a.py", "from unittest.mock import patch"),
    (rules.no_mocks, "tests/a.py", "import unittest.mock"),
    (rules.no_mocks, "tests/a.py", "from somewhere import MagicMock\nMagicMock()"),
    (rules.no_mocks, "tests/a.py", "monkeypatch.setattr('perdure.core.x', 1)"),
    (rules.no_mocks, "tests/a.py", "monkeypatch.setattr(Store, 'append', f)"),
    (rules.no_mocks, "tests/a.py", "def test_a(mocker): ..."),
    (rules.no_sleep_in_tests, "tests/a.py", "import asyncio\nasyncio.sleep(0.1)"),
    (rules.no_sleep_in_tests, "tests/a.py", "from asyncio import sleep\nsleep(delay)"),
    (rules.no_sleep_in_tests, "tests/a.py", "import time\ntime.sleep(0)"),
    (rules.nothing_unfinished, "perdure/a.py", f"x = 1  # {MARKER}: later"),
]

ALLOWED = [
    (rules.file_is_short, "perdure/a.py", "x = 1\n" * 400),
    (rules.functions_are_short, "perdure/a.py", "def f():\n" + "    pass\n" * 59),
    (rules.no_module_state, "perdure/a.py", "__all__ = ['a']\nNAMES = ('a', 'b')"),
    (rules.no_module_state, "perdure/a.py", "CODES: Mapping[str, int] = {'a': 1}"),
    (rules.no_module_state, "perdure/a.py", "CODES: Final = {'a': 1}"),
    (rules.no_module_state, "tests/a.py", "cases = []"),
    (rules.no_code_from_data, "perdure/a.py", "import re\nre.compile('a')\nmodel.eval()"),
    (rules.no_code_from_data, "perdure/a.py", "subprocess.run(['ls'], shell=False)"),
    (rules.no_built_sql, "perdure/a.py", "db.execute(sql.append, {'a': 1})"),
    (rules.no_mocks, "tests/a.py", "monkeypatch.setenv('A', 'b')"),
    (rules.no_mocks, "tests/a.py", "monkeypatch.setattr(sys, 'stdin', text)"),
    (rules.no_sleep_in_tests, "tests/a.py", "import asyncio\nasyncio.sleep(0)"),
    (rules.no_sleep_in_tests, "perdure/a.py", "import asyncio\nasyncio.sleep(1)"),
    (rules.nothing_unfinished, "perdure/a.py", "x = mkdtemp('" + "X" * 6 + "')"),
]


def name(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("rule", "path", "text"), CAUGHT, ids=name)
def test_a_violation_is_caught(rule: rules.Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED, ids=name)
def test_a_clean_file_passes(rule: rules.Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _, _ in CAUGHT} == set(rules.RULES)


def test_a_violation_in_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "perdure/deep").mkdir(parents=True)
    (tmp_path / "perdure/deep/bad.py").write_text("import pickle\n")
    (found,) = read_sources(tmp_path)
    assert list(rules.no_code_from_data(found)) == [
        "perdure/deep/bad.py:1: pickle runs stored bytes as code"
    ]


def test_a_file_nobody_leads_to_is_dead() -> None:
    files = {
        "perdure/__init__.py": "",
        "perdure/__main__.py": "from perdure.app import main",
        "perdure/app.py": "TABLE = {'a': 'perdure.a:connect'}\nSCRIPT = 'script.py'",
        "perdure/script.py": "",
        "perdure/a/__init__.py": "from perdure.a import b",
        "perdure/a/b.py": "",
        "perdure/a/alone.py": "import perdure.a.alone_too",
        "perdure/a/alone_too.py": "import perdure.a.alone",
        "perdure/testing/kit.py": "",
        "tests/test_alone.py": "import perdure.a.alone",
    }
    dead = dead_modules([Source(path, text) for path, text in files.items()])
    assert dead == ["perdure/a/alone.py", "perdure/a/alone_too.py"]


def test_an_undocumented_event_type_is_found() -> None:
    class Started(msgspec.Struct, tag="turn.started"): ...

    events = ModuleType("events")
    vars(events)["Started"] = Started
    assert documented.event_types(events) == {"turn.started"}
    assert documented.missing_from("`turn.started_by`", {"turn.started"}) == ["turn.started"]
    assert not documented.missing_from("A `turn.started`.", {"turn.started"})


def test_an_undocumented_error_code_is_found() -> None:
    source = Source("perdure/a.py", "raise Oops('E-TOOL-UNKNOWN', f'not E-{x}')")
    assert documented.error_codes([source]) == {"E-TOOL-UNKNOWN"}
    assert documented.missing_from("E-TOOL-UNKNOWN-TOO", {"E-TOOL-UNKNOWN"}) == ["E-TOOL-UNKNOWN"]


def test_an_undocumented_setting_is_found() -> None:
    class ServerSettings(msgspec.Struct):
        lease_s: float = 3.0

    config = ModuleType("config")
    vars(config)["ServerSettings"] = ServerSettings
    assert documented.setting_names(config) == {"lease_s"}
    assert documented.missing_from("`lease_seconds`", {"lease_s"}) == ["lease_s"]
    source = Source("perdure/config.py", "get('PERDURE_HOME')")
    assert documented.environment_names([source]) == {"PERDURE_HOME"}


def test_an_undocumented_command_is_found() -> None:
    def do_nothing() -> None: ...

    admin, cli = typer.Typer(), ModuleType("cli")
    admin.command("backup")(do_nothing)
    admin.command("secret", hidden=True)(do_nothing)
    vars(cli).update(app=typer.Typer(), __path__=[])
    cli.app.command("run")(do_nothing)
    cli.app.add_typer(admin, name="admin")
    root = typer.main.get_command(cli.app)
    verbs = set(documented.commands(root))
    assert verbs == {"perdure run", "perdure admin backup"}
    assert documented.missing_from("`perdure run`", verbs) == ["perdure admin backup"]
