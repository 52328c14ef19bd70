"""The workspace tools in a real sandbox, and the pure functions below them."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from perdure.core.agent import Effect, EnvironmentSpec
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.environments.bubblewrap import Bubblewrap
from perdure.ports.sandbox import Ended, Sandbox
from perdure.ports.tool import Tool, ToolFailed, ToolOutput
from perdure.testing.clocks import FakeClock
from perdure.tools import globs, texts
from perdure.tools.workspace import workspace_tools
from tests.contract.tool_doubles import Context


class Desk:
    """The tools by name, called in one sandbox."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.context = Context(box=box)
        self._tools: dict[str, Tool] = {made.spec.name: made for made in workspace_tools()}

    async def __call__(self, tool: str, **arguments: Any) -> ToolOutput:
        return await self._tools[tool].call(arguments, self.context)

    async def text(self, tool: str, **arguments: Any) -> str:
        output = await self(tool, **arguments)
        assert output.error is None, output
        return output.text

    async def refused(self, tool: str, **arguments: Any) -> str:
        output = await self(tool, **arguments)
        assert output.error is not None, output
        return f"{output.error.code} {output.text}"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    spec = EnvironmentSpec(kind="bubblewrap", timeout_s=20.0, output_bytes=4096)
    try:
        box = await Bubblewrap(tmp_path / "boxes", FakeClock()).open("s-1", spec, "")
    except Unavailable as error:
        pytest.skip(str(error))
    yield Desk(box)
    await box.close()


def test_the_specs() -> None:
    specs = {made.spec.name: made.spec for made in workspace_tools()}
    assert {name: spec.effect for name, spec in specs.items()} == {
        "bash": Effect.CONTAINED,
        "read": Effect.READ,
        "write": Effect.CONTAINED,
        "edit": Effect.CONTAINED,
        "glob": Effect.READ,
        "grep": Effect.READ,
    }
    assert all(spec.environment for spec in specs.values())
    assert {name for name, spec in specs.items() if spec.mutates} == {"bash", "write", "edit"}
    assert workspace_tools(contained=False)[0].spec.effect is Effect.ONCE
    assert workspace_tools(contained=False)[0].spec.mutates
    assert all("context" not in bytes(spec.input_schema).decode() for spec in specs.values())


async def test_wrong_arguments_do_nothing() -> None:
    made = workspace_tools()[0]
    with pytest.raises(InvalidRequest, match=r"bash: `timeout_s`"):
        await made.call({"command": "true", "timeout_s": 0}, Context())


async def test_without_an_environment_it_says_so() -> None:
    made = workspace_tools()[0]
    with pytest.raises(ToolFailed) as caught:
        await made.call({"command": "true"}, Context())
    assert (caught.value.info.code, caught.value.info.kind) == ("E-NO-ENVIRONMENT", "environment")


@pytest.mark.sandbox
class TestBash:
    async def test_output_and_exit_code(self, desk: Desk) -> None:
        assert await desk.text("bash", command="echo a; echo b >&2; exit 3") == (
            "a\nb\n[exit code 3]"
        )
        assert await desk.text("bash", command="true") == "(no output)\n[exit code 0]"
        assert await desk.text("bash", command="printf x") == "x\n[exit code 0]"
        assert "".join(desk.context.shown) == "a\nb\nx"

    async def test_the_shell_goes_on_where_it_was(self, desk: Desk) -> None:
        await desk("bash", command="mkdir d; cd d; name=value")
        text = await desk.text("bash", command="basename $PWD; echo $name")
        assert text == "d\nvalue\n[exit code 0]"

    async def test_bytes_survive(self, desk: Desk) -> None:
        output = await desk("bash", command=r"printf '\xff\x00caf\xc3\xa9'")
        body = output.text.removesuffix("\n[exit code 0]")
        assert body.encode("utf-8", "surrogateescape") == b"\xff\x00caf\xc3\xa9"

    async def test_a_timeout_is_said_and_is_an_error(self, desk: Desk) -> None:
        output = await desk("bash", command="echo begun; sleep 100", timeout_s=0.5)
        assert output.text == "begun\n[killed: timeout after 0.5 s]"
        assert output.error is not None
        assert output.error.code == "E-TOOL-KILLED"
        assert output.meta["exit_code"] is None

    async def test_long_output_is_cut_and_kept(self, desk: Desk) -> None:
        output = await desk("bash", command="seq 10000")
        assert "bytes left out" in output.text
        assert len(output.text) < 5000
        assert output.full is not None
        assert output.full.split()[-1] == b"10000"


@pytest.mark.sandbox
class TestFiles:
    async def test_write_read_edit(self, desk: Desk) -> None:
        assert await desk.text("write", path="src/a.py", content="one\ntwo\nthree\n") == (
            "Wrote 14 bytes to src/a.py."
        )
        shown = "     1\tone\n     2\ttwo\n     3\tthree"
        assert await desk.text("read", path="src/a.py") == shown
        assert await desk.text("edit", path="src/a.py", old="two", new="2") == (
            "Replaced once in src/a.py:\n     1\tone\n     2\t2\n     3\tthree\n     4\t"
        )
        assert await desk.text("bash", command="cat src/a.py") == "one\n2\nthree\n[exit code 0]"
        part = await desk.text("read", path="src/a.py", offset=2, limit=1)
        assert part == "     2\t2\n[lines 2 to 2 of 3; go on with offset=3]"

    async def test_bytes_that_are_not_text_survive_an_edit(self, desk: Desk) -> None:
        await desk("bash", command=r"printf 'a\xff\r\nb\x0cc\r\n' > f")
        assert "CR LF" in await desk.text("read", path="f")
        await desk.text("edit", path="f", old="b\x0cc\n", new="d\ne\n")
        text = await desk.text("bash", command="od -An -c f")
        assert text.split()[:9] == ["a", "377", r"\r", r"\n", "d", r"\r", r"\n", "e", r"\r"]

    async def test_a_binary_file_is_named_not_shown(self, desk: Desk) -> None:
        await desk("bash", command=r"printf 'a\x00b' > f")
        assert "binary file of 3 bytes" in await desk.text("read", path="f")

    async def test_refusals_explain(self, desk: Desk) -> None:
        await desk("write", path="f", content="a\na\n")
        assert "E-PATH-MISSING" in await desk.refused("read", path="nothing")
        assert "E-PATH-OUTSIDE" in await desk.refused("read", path="../../etc/passwd")
        assert "E-PATH-OUTSIDE" in await desk.refused("write", path="../x", content="")
        assert "there 2 times, at lines 1, 2" in await desk.refused(
            "edit", path="f", old="a", new="b"
        )
        assert "Replaced 2 times" in await desk.text(
            "edit", path="f", old="a", new="b", replace_all=True
        )

    async def test_a_link_leads_nowhere_outside(self, desk: Desk) -> None:
        await desk("bash", command="ln -s /etc/passwd secret; ln -s /etc folder")
        assert "E-PATH" in await desk.refused("read", path="secret")
        assert "E-PATH" in await desk.refused("read", path="folder/passwd")

    async def test_glob(self, desk: Desk) -> None:
        await desk(
            "bash",
            command="mkdir -p a/b .git; touch a/x.py a/b/y.py z.py a/b/n.txt .git/h.py",
        )
        assert await desk.text("glob", pattern="*.py") == "a/b/y.py\na/x.py\nz.py"
        assert await desk.text("glob", pattern="a/*.py") == "a/x.py"
        assert await desk.text("glob", pattern="nope/**") == "No file matches nope/**."


@pytest.mark.sandbox
class TestGrep:
    async def test_finds_lines_wherever_the_shell_is(self, desk: Desk) -> None:
        await desk("write", path="a/x.py", content="one\nTwo [x]\nthree\n")
        await desk("write", path="b/y.txt", content="two\n")
        await desk("bash", command="mkdir d; cd d; set -e; alias grep=false")
        assert await desk.text("grep", pattern="two") == "b/y.txt:1:two"
        both = await desk.text("grep", pattern="TWO", ignore_case=True)
        assert sorted(both.split("\n")) == ["a/x.py:2:Two [x]", "b/y.txt:1:two"]
        assert await desk.text("grep", pattern="o [x]", literal=True) == "a/x.py:2:Two [x]"
        assert await desk.text("grep", pattern="t", path="a", glob="*.py") == "a/x.py:3:three"
        shown = await desk.text("grep", pattern="Two", around=1)
        assert shown == "a/x.py-1-one\na/x.py:2:Two [x]\na/x.py-3-three"
        assert await desk.text("grep", pattern="absent") == "No matches."
        assert (await desk.text("bash", command="basename $PWD")).startswith("d\n")

    async def test_what_it_cannot_do_is_an_error(self, desk: Desk) -> None:
        assert "E-GREP" in await desk.refused("grep", pattern="(")
        assert "E-GREP" in await desk.refused("grep", pattern="x", path="nothing")
        assert "NUL" in await desk.refused("grep", pattern="a\0b")

    async def test_patterns_and_paths_are_never_options_or_code(self, desk: Desk) -> None:
        await desk("write", path="f", content="--help\n$(touch made)\n'; touch made; '\n")
        assert "f:1:--help" in await desk.text("grep", pattern="--help", literal=True)
        for hostile in ("$(touch made)", "'; touch made; '"):
            await desk.text("grep", pattern=hostile, literal=True)
            await desk("grep", pattern="x", path=hostile)
            await desk("grep", pattern="x", glob=hostile)
        assert await desk.text("glob", pattern="made") == "No file matches made."

    async def test_many_matches_are_bounded(self, desk: Desk) -> None:
        await desk("bash", command="seq 100000 > n; printf 'x%.0s' {1..5000} > long")
        text = await desk.text("grep", pattern="1", limit=5)
        assert text.count("\n") == 5
        assert text.endswith("[only the first 5 lines; search for something narrower]")
        assert len(await desk.text("grep", pattern="x")) < 600


class StuckBox:
    """A sandbox whose commands run until they are cancelled or killed."""

    workspace = "/nowhere"

    async def run(self, script: str, *, timeout_s: float | None = None, **_: Any) -> Ended:
        assert timeout_s == 30.0
        return Ended(b"", None, 30.0, killed="timeout")


async def test_a_search_that_takes_too_long_is_killed() -> None:
    grep = workspace_tools()[-1]
    output = await grep.call({"pattern": "(a*)*b"}, Context(box=StuckBox()))  # type: ignore[arg-type]  # only run() is called
    assert output.text == "[killed: timeout after 30 s]"


# Pure functions.


def test_numbered_knows_only_line_feeds() -> None:
    assert texts.numbered("a\x0cb\u2028c\nd", 1, 10) == "     1\ta\x0cb\u2028c\n     2\td"
    assert texts.numbered("", 1, 10) == "(empty file)"
    assert "only 1 lines" in texts.numbered("a\n", 5, 10)
    assert "more characters" in texts.numbered("x" * 3000, 1, 1)


def test_numbered_stops_before_it_is_too_much() -> None:
    text = texts.numbered("\n".join("y" * 1000 for _ in range(500)), 1, 10_000)
    assert len(text) < texts.SHOWN_MAX + 3000
    assert "go on with offset=" in text


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ("", "use write"),
        ("x", "the same"),
        ("def  f(a,b):\n    return a", "with other white space:\n     2\tdef f(a,b):"),
        ("def f(a, c):", "nearest line is:\n     2\tdef f(a,b):"),
        ("zzzzzzzzzzzz", "nor anything like it"),
    ],
)
def test_an_edit_that_cannot_be_made_says_what_is_there(old: str, words: str) -> None:
    text = "# head\ndef f(a,b):\n\treturn a\n"
    with pytest.raises(texts.NoEditError) as caught:
        texts.replace(text, old, "x", every=False)
    assert words in str(caught.value)


@given(st.text("ab\n\r", max_size=30), st.text("ab\n", min_size=1, max_size=4), st.text("ab\n"))
def test_an_edit_changes_one_place_or_none(text: str, old: str, new: str) -> None:
    try:
        edited = texts.replace(text, old, new, every=False)
    except texts.NoEditError:
        return
    assert edited.times == 1
    crs = edited.text.count("\r") - text.count("\r")
    assert len(edited.text) - crs == len(text) - len(old) + len(new)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["a.py", "s/b.py", "s/t/c.py"]),
        ("**/*.py", ["a.py", "s/b.py", "s/t/c.py"]),
        ("./s/*.py", ["s/b.py"]),
        ("s/**", ["s/b.py", "s/t/c.py", "s/t/d.md"]),
        ("s/", ["s/b.py", "s/t/c.py", "s/t/d.md"]),
        ("s/**/c.py", ["s/t/c.py"]),
        ("**/**/t/**/*.{md,rs}", ["s/t/d.md"]),
        ("[ab].py", ["a.py", "s/b.py"]),
        (".git/*", [".git/x"]),
        ("", ["a.py", "s/b.py", "s/t/c.py", "s/t/d.md"]),
        ("{", []),
    ],
)
def test_globs(pattern: str, found: list[str]) -> None:
    paths = [".git/x", "a.py", "s/b.py", "s/t/c.py", "s/t/d.md"]
    assert globs.matching(pattern, paths) == found


async def test_no_glob_is_slow() -> None:
    hostile = "/".join(["**", "*a*b*c*d*"] * 40) + "{a,b}" * 30
    paths = ["/".join(["abcabcabcabc" * 5] * 60)] * 20
    began = time.monotonic()
    await asyncio.to_thread(globs.matching, hostile, paths)
    assert time.monotonic() - began < 5
