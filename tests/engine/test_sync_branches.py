"""Forks and rewinds without `await`."""

from pathlib import Path

from perdure import Agent
from perdure.app import Options
from perdure.models.scripted import Reply, Script, Scripted
from perdure.ports.model import Model
from perdure.sync import Runtime


class OneScript:
    """Finds one model under every name."""

    def __init__(self, *texts: str) -> None:
        self._model = Scripted(Script(tuple(Reply(text=text) for text in texts)))

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name.partition(":")[2]


def test_a_fork_and_a_rewind_without_await(tmp_path: Path) -> None:
    agent = Agent("talker", "scripted:x")
    options = Options(models=OneScript("first: {{last_user}}", "second: {{last_user}}"))
    with Runtime(f"sqlite:///{tmp_path / 's.db'}", options) as runtime:
        session = runtime.session("s1", agent)
        assert list(session.send("one"))
        other = session.fork(edit="two", name="s2")
        assert list(other.resume())
        said = [str(item) for item in other.context()]
        assert any("first: two" in each for each in said)
        end = session.state().seq
        assert list(session.send("three"))
        session.rewind(end)
        assert not any("second" in str(item) for item in session.context())
