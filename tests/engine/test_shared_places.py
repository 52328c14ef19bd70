"""`Options.blobs`, and a database for many machines: what a `Runtime` makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure import Runtime
from perdure.app import Options
from perdure.config import load_project
from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import InvalidRequest
from perdure.engine.agent import Agent
from perdure.environments.roots import OwnRoot, homes_of
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from tests.contract.postgres import database, postgres
from tests.contract.s3_double import s3_double

__all__ = ["database", "postgres"]  # fixtures

LONG = "long " * 50_000


def bash(command: str) -> dict[str, Any]:
    return {"call": [{"tool": "bash", "arguments": {"command": command}}]}


FIRST = (bash("echo one >notes.txt"), {"text": LONG})
THIRD = (bash("echo three >>notes.txt"), {"text": "done"})


class Player:
    """Finds the same scripted model under every name."""

    def __init__(self, replies: Sequence[Mapping[str, Any]]) -> None:
        self._model = Scripted(msgspec.convert({"reply": replies}, Script))

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name


AGENT = Agent("agent", "scripted:play", workspace=True, environment=EnvironmentSpec(kind="process"))


def runtime(url: str, work: Path, *replies: Mapping[str, Any], blobs: str = "") -> Runtime:
    options = Options(
        models=Player(replies), blobs=blobs, work_root=work, allow_unsandboxed=True, wakes=False
    )
    return Runtime(url, options)


async def allowed(session: Any, text: str) -> None:
    """Send, and let what is asked about run: nothing isolates these commands."""
    state = await session.send(text)
    while state.actions:
        for action in state.actions.values():
            await session.allow(action.id, by="anna", seen=action.digest)
        async for _ in session.watch():
            pass
        state = await session.state()


async def two_machines(folder: Path, url: str, places: tuple[Path, Path], blobs: str = "") -> None:
    async with runtime(url, folder / "a", *FIRST, blobs=blobs) as first:
        session = await first.session("s", AGENT)
        await allowed(session, "go")
        one = (await session.state()).snapshot
        assert (places[0] / "sessions/s/workspace/notes.txt").read_text() == "one\n"
    async with runtime(url, folder / "b", *FIRST, *THIRD, blobs=blobs) as second:
        session = await second.session("s", AGENT)
        await allowed(session, "go on")
        two = (await session.state()).snapshot
        assert (places[1] / "sessions/s/workspace/notes.txt").read_text() == "one\nthree\n"
    async with runtime(url, folder / "c", blobs=blobs) as third:
        [change] = await third.changes(one, two)
        assert (change.path, change.after) == ("notes.txt", b"one\nthree\n")


async def test_a_directory_for_blobs_is_shared(tmp_path: Path) -> None:
    url, blobs = f"sqlite:///{tmp_path}/perdure.db", f"file://{tmp_path}/blobs"
    await two_machines(tmp_path, url, (tmp_path / "a", tmp_path / "b"), blobs)
    assert not (tmp_path / "perdure.db.blobs").exists()
    assert len(list((tmp_path / "blobs").glob("??/*"))) >= 4, "the long text, and the packs"


async def test_an_object_store_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with s3_double() as (s3, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        url = f"sqlite:///{tmp_path}/perdure.db"
        await two_machines(tmp_path, url, (tmp_path / "a", tmp_path / "b"), "s3://bucket/p")
        assert len(s3.objects) >= 4
        assert not (tmp_path / "perdure.db.blobs").exists()


async def test_without_the_setting_a_file_keeps_all_beside_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/perdure.db"
    async with runtime(url, tmp_path / "a", *FIRST) as only:
        await allowed(await only.session("s", AGENT), "go")
        assert await only.engine() is not None
        assert await (await only.engine()).kit.store.docs("snapshot") == []
    assert len(list((tmp_path / "perdure.db.blobs").glob("??/*"))) == 1
    assert not (tmp_path / "a/sessions/s/at").exists(), "nothing is written that nobody needs"


@pytest.mark.postgres
async def test_a_database_for_many_machines_shares_snapshots(tmp_path: Path, database: str) -> None:
    places = (tmp_path / "a/node-1", tmp_path / "b/node-1")
    await two_machines(tmp_path, database, places)


def test_each_process_has_a_directory_of_its_own(tmp_path: Path) -> None:
    with OwnRoot(tmp_path) as one, OwnRoot(tmp_path) as two:
        assert (one.path.name, two.path.name) == ("node-1", "node-2")
        one.close()
        with OwnRoot(tmp_path) as three:
            assert three.path == one.path


def test_a_purge_finds_what_every_process_of_this_machine_has(tmp_path: Path) -> None:
    places = [tmp_path / "sessions/s", *(tmp_path / f"node-{n}/sessions/s" for n in (1, 2))]
    for place in (*places, tmp_path / "node-1/sessions/other"):
        place.mkdir(parents=True)
    assert sorted(homes_of(tmp_path, "", "s")) == sorted(places)
    assert homes_of(tmp_path, "projects/p", "s") == []


def test_the_setting_comes_from_the_file_or_the_environment(tmp_path: Path) -> None:
    assert load_project(tmp_path, {}).settings.blobs == ""
    (tmp_path / "perdure.toml").write_text('blobs = "s3://bucket/p"\n')
    assert load_project(tmp_path, {}).settings.blobs == "s3://bucket/p"
    over = {"PERDURE_BLOBS": "gs://other"}
    assert load_project(tmp_path, over).settings.blobs == "gs://other"
    assert load_project(tmp_path, {"PERDURE_BLOBS": ""}).settings.blobs == ""


async def test_what_names_no_place_is_said_before_anything_is_made(tmp_path: Path) -> None:
    only = runtime(f"sqlite:///{tmp_path}/perdure.db", tmp_path / "a", blobs="ftp://x/y")
    with pytest.raises(InvalidRequest) as caught:
        await only.engine()
    assert caught.value.code == "E-BLOBS-URL"
    assert list(tmp_path.iterdir()) == []
