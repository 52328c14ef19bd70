"""A session kept as a test: it runs by itself, and it notices what it should."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.core.agent import Limits, Rule, Verdict
from perdure.core.errors import InvalidRequest
from perdure.engine.agent import Agent
from perdure.regression import check
from perdure.replaying import save_test
from tests.engine.told import REFUND, Shop, clerk, engine_on, memory, refunded

DEFINED = """
from tests.engine.told import Shop, clerk

agent = clerk(Shop(), limit={limit})
"""


async def kept(folder: Path) -> Path:
    """Save a session as a test; return its journal."""
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("s", clerk(Shop())))
        _, journal = await save_test(store, "s", folder / "test_refund.py", "agents:agent")
    return journal


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    paths = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(root)!r}]; import pytest; "
    run = "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_refund.py']))"
    return subprocess.run(
        [sys.executable, "-c", paths + run], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_file_runs_by_itself_and_fails_when_the_agent_changed(tmp_path: Path) -> None:
    journal = asyncio.run(kept(tmp_path))
    text = (tmp_path / "test_refund.py").read_text()
    assert len(text.splitlines()) < 30
    (tmp_path / "agents.py").write_text(DEFINED.format(limit=100))
    good = run_pytest(tmp_path)
    assert good.returncode == 0, good.stdout
    (tmp_path / "agents.py").write_text(DEFINED.format(limit=1000))
    bad = run_pytest(tmp_path)
    assert bad.returncode == 1
    assert "clerk would decide differently now" in bad.stdout
    assert "verdict was 'ask', now 'allow'" in bad.stdout
    assert journal.name in bad.stdout


def fails(journal: Path, agent: Agent) -> str:
    with pytest.raises(AssertionError) as caught:
        check(journal, agent)
    return str(caught.value)


def test_what_decides_is_compared_and_words_are_not(tmp_path: Path) -> None:
    journal, shop = asyncio.run(kept(tmp_path)), Shop()
    deny = Rule("look", Verdict.DENY)
    changed = {
        "verdict was 'allow', now 'deny'": clerk(shop, rules=[deny]),
        "turn.ended": clerk(shop, limits=Limits(steps=1)),
        "There is no tool 'fail'": Agent("clerk", "scripted:clerk", tools=shop.tools()[:1]),
    }
    for text, agent in changed.items():
        assert text in fails(journal, agent)
    same = Agent("other", "openai:gpt-9", "Other words.", tools=shop.tools())
    assert check(journal, same).identical
    assert shop.calls == []


async def test_it_must_be_said_where_the_agent_is(tmp_path: Path) -> None:
    store = memory()
    async with engine_on(store, {"clerk": REFUND}) as engine:
        await refunded(await engine.session("s", clerk(Shop())))
        for place in ("agents", "a b:c", "os; import evil:x", ":x"):
            with pytest.raises(InvalidRequest, match="E-REPLAY-AGENT"):
                await save_test(store, "s", tmp_path / "test_x.py", place)
    assert list(tmp_path.iterdir()) == []
