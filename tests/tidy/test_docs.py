"""Everything a user can meet is described on its page, and no page describes what is gone."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.tidy import documented
from tests.tidy.sources import ROOT, read_sources


def page(name: str) -> str:
    path = ROOT / "docs" / name
    assert path.exists(), f"docs/{name} is missing, and there is something to document"
    return path.read_text(encoding="utf-8")


def code(module: str) -> ModuleType:
    if not documented.is_there(module):
        pytest.skip(f"NOT CHECKED: {module} does not exist yet")
    return importlib.import_module(module)


def test_every_event_type_is_documented() -> None:
    types = documented.event_types(code("perdure.core.events"))
    assert types, "found no event type in perdure.core.events: has their form changed?"
    assert not documented.missing_from(page("journal-format.md"), types)


def test_every_error_code_is_documented_and_no_other() -> None:
    codes = documented.error_codes(read_sources())
    if not codes:
        pytest.skip("NOT CHECKED: no error code in perdure/ yet")
    errors = page("errors.md")
    assert not documented.missing_from(errors, codes)
    assert set(documented.ERROR_CODE.findall(errors)) <= codes, "described, but no longer raised"


def test_every_command_is_documented() -> None:
    root = documented.command_line(code("perdure.cli"))
    assert root is not None, "found no command line called `app` in perdure.cli"
    verbs = set(documented.commands(root))
    assert verbs
    assert not documented.missing_from(page("cli.md"), verbs)


def test_every_setting_is_documented() -> None:
    names = documented.setting_names(code("perdure.config"))
    assert names, "found no …Settings or …Config struct in perdure.config"
    assert not documented.missing_from(page("configuration.md"), names)


def test_every_environment_variable_is_documented() -> None:
    names = documented.environment_names(read_sources())
    if not names:
        pytest.skip("NOT CHECKED: perdure/ names no PERDURE_ variable yet")
    assert not documented.missing_from(page("configuration.md"), names)


def broken_links(path: Path) -> list[str]:
    """The relative links of a Markdown file that lead nowhere."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    targets = (link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text))
    return [
        each
        for each in targets
        if each and not has_scheme(each) and not (path.parent / each).exists()
    ]


def has_scheme(link: str) -> bool:
    return bool(re.match(r"[a-z]+:", link))


def test_every_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert pages
    broken = {page.name: links for page in pages if (links := broken_links(page))}
    assert not broken


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("[a](there.md#part) [b](gone.md) [c](https://example.org)")
    assert broken_links(tmp_path / "there.md") == ["gone.md"]
