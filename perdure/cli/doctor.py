"""`perdure doctor` and `perdure selftest`: what holds here, what does not, and what to type."""

import asyncio
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from perdure.cli.agents import Overrides, load_agent
from perdure.cli.elsewhere import engine_of, only_here
from perdure.cli.screen import Screen
from perdure.cli.text import clean, duration, pad, plural, wrap
from perdure.cli.worker import runtime_of
from perdure.config import Project, load_project
from perdure.core.codec import encode
from perdure.core.errors import InvalidRequest, PerdureError
from perdure.ports.cluster import Cluster
from perdure.stores.system import SystemClock

KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
FREE_BYTES: Final = 1024**3
SLOW_US: Final = 50_000
_NAME: Final = 22


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `ok` is None for what is neither good nor bad."""

    about: str
    ok: bool | None
    detail: str
    fix: str = ""


def doctor(*, verify: bool, online: bool, json: bool) -> int:
    """Carry out the verb; the status is 1 when something that is needed is broken."""
    if verify:
        only_here("doctor --verify")
    screen = Screen(json=json)
    found: list[Finding] = []

    async def look() -> None:
        async for finding in _all(verify=verify, online=online):
            found.append(finding)
            if not json:
                _print(screen, finding)

    asyncio.run(look())
    broken = [finding for finding in found if finding.ok is False]
    if json:
        screen.line(encode({"ok": not broken, "findings": found}).decode())
    else:
        screen.line()
        word = f"{plural(len(broken), 'thing')} to mend" if broken else "All is well"
        screen.line("  " + screen.style(word, "red" if broken else "green", "bold"))
    return 1 if broken else 0


def _print(screen: Screen, finding: Finding) -> None:
    signs = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}
    sign, style = signs[finding.ok]
    lines = wrap(finding.detail, screen.width - _NAME - 5)
    head = "  " + screen.style(sign, style) + f" {pad(finding.about, _NAME)} "
    screen.line(head + lines[0])
    for line in lines[1:]:
        screen.line(" " * (_NAME + 5) + line)
    if finding.fix and finding.ok is not True:
        for number, line in enumerate(wrap(finding.fix, screen.width - _NAME - 10)):
            mark = "Fix: " if number == 0 else "     "
            screen.line(" " * (_NAME + 5) + screen.style(mark, "cyan") + line)


async def _all(*, verify: bool, online: bool) -> AsyncIterator[Finding]:
    yield _python()
    try:
        project = load_project(Path.cwd())
    except PerdureError as error:
        yield Finding("perdure.toml", False, error.message, error.hint)
        return
    yield _file(project)
    if project.remote:
        yield await _server(project)
        return
    for check in (_disk, _sqlite):
        yield check(project)
    async for finding in _store(project, verify=verify):
        yield finding
    from perdure.environments.checks import describe

    for seen in await describe(SystemClock()):
        # Only what was tried counts: a means that is missing may have a substitute.
        ok = None if seen.ok is False and seen.name != "sandbox" else seen.ok
        yield Finding(seen.name, ok, seen.detail, seen.fix)
    yield _keys(project)
    async for finding in _agents(project):
        yield finding
    if online:
        async for finding in _models(project):
            yield finding


def _python() -> Finding:
    version = platform.python_version()
    detail = f"{version} ({sys.executable})"
    return Finding(
        "Python", sys.version_info >= (3, 11), detail, "Perdure needs Python 3.11 or later."
    )


def _file(project: Project) -> Finding:
    if project.file is None:
        return Finding("perdure.toml", None, f"none at or above {project.root}: defaults hold")
    return Finding("perdure.toml", True, str(project.file))


async def _server(project: Project) -> Finding:
    """Ask the server who we are there."""
    try:
        async with runtime_of(project, clerk=True) as runtime:
            info = await (await engine_of(runtime)).info()
    except PerdureError as error:
        return Finding("server", False, f"{error.code} {error.message}", error.hint)
    agents = ", ".join(info.agents) or "none"
    detail = (
        f"{project.remote}: version {info.version}; you are {info.role} of project {info.project}; "
        f"{plural(info.sessions, 'session')}; agents: {agents}"
    )
    return Finding("server", True, clean(detail))


def _disk(project: Project) -> Finding:
    """Measure what an agent's step costs on this disk: one small write that reaches it."""
    path = project.store_path
    folder = path.parent if path is not None and path.parent.is_dir() else project.root
    free = shutil.disk_usage(folder).free
    try:
        took_us = _fsync_us(folder)
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}"
        return Finding("disk", False, detail, f"chown $USER {folder}, or PERDURE_STORE=sqlite:///…")
    took = duration_us(took_us)
    detail = f"{free / 1024**3:.1f} GiB free in {folder}; a durable write of 4 KiB takes {took}"
    if free < FREE_BYTES:
        return Finding("disk", False, detail, "Free some space: below 1 GiB little fits.")
    if took_us > SLOW_US:
        return Finding("disk", None, detail, "Slow: put the store on a local disk (PERDURE_STORE).")
    return Finding("disk", True, detail)


def _fsync_us(folder: Path) -> int:
    """Return the median time of five 4 KiB writes with fsync, in microseconds."""
    clock = SystemClock()
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(5):
            before = clock.monotonic()
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(clock.monotonic() - before)
    return int(sorted(times)[2] * 1_000_000)


def duration_us(us: int) -> str:
    """Return a short time: 80 µs, 1.4 ms, 12 ms."""
    if us < 1000:
        return f"{us} µs"
    return f"{us / 1000:.1f} ms" if us < 100_000 else duration(us)


def _sqlite(project: Project) -> Finding:
    from perdure.stores.sqlite import connect

    version = connect.library_version()
    try:
        connect.check_version(version)
    except PerdureError as error:
        return Finding("SQLite", False, error.message, error.hint)
    detail = f"{version}; WAL, synchronous=FULL: what is acknowledged is on disk"
    return Finding("SQLite", True, detail)


async def _store(project: Project, *, verify: bool) -> AsyncIterator[Finding]:
    from perdure.app import open_store
    from perdure.stores.verify import verify as walk

    path = project.store_path
    if path is not None and not path.exists():
        yield Finding("store", None, f"{path}: none yet, made by the first run")
        return
    try:
        store, _ = await open_store(project.store_url, project.settings.blobs)
    except PerdureError as error:
        yield Finding("store", False, error.message, error.hint)
        return
    try:
        if isinstance(store, Cluster):
            yield await _cluster(store)
        rows = await store.sessions()
        size = f", {path.stat().st_size / 1024**2:.1f} MiB" if path else ""
        yield Finding("store", True, f"{project.store_shown}: {plural(len(rows), 'session')}{size}")
        if verify:
            bad = await walk(store)
            for each in bad:
                where = f"{each.session}:{each.seq}" if each.session else "store"
                yield Finding(
                    where,
                    False,
                    f"{each.code} {each.message}",
                    f"perdure show {each.session} --events",
                )
            if not bad:
                yield Finding(
                    "journals",
                    True,
                    f"{plural(len(rows), 'journal')} read and whole, every hash right",
                )
    finally:
        await store.close()
    if verify and path is not None:
        yield await _snapshots(path)


async def _cluster(store: Cluster) -> Finding:
    """Say what the database promises, and who uses it."""
    alive = [node.name for node in await store.nodes() if node.alive and node.name != store.node]
    others = ", ".join(alive) or "none"
    promise = getattr(store, "guarantee", "")
    return Finding(
        "nodes", True, "; ".join(each for each in (promise, f"others: {others}") if each)
    )


async def _snapshots(path: Path) -> Finding:
    from perdure.environments.snapshots import Snapshots

    folder = path.with_name(path.name + ".work") / "snapshots"
    if not folder.is_dir():
        return Finding("snapshots", None, "none")
    try:
        store = await asyncio.to_thread(Snapshots, folder)
        bad = await asyncio.to_thread(store.verify)
    except PerdureError as error:
        return Finding("snapshots", False, error.message, error.hint)
    if bad:
        fix = "Sessions that need them cannot roll back; restore a backup of the directory."
        return Finding("snapshots", False, "; ".join(bad[:5]), fix)
    return Finding("snapshots", True, f"{plural(len(store.ids()), 'snapshot')} read and whole")


def _keys(project: Project) -> Finding:
    """Say which keys are there. Their values are nobody's business."""
    own = {m.api_key_env for m in project.settings.models.values() if m.api_key_env}
    present = [name for name in (*KEYS, *sorted(own)) if project.environ.get(name)]
    if present:
        return Finding("keys", True, ", ".join(present))
    return Finding("keys", None, "none: only scripted models can be used", f"export {KEYS[1]}=…")


async def _agents(project: Project) -> AsyncIterator[Finding]:
    for name in project.settings.agents:
        try:
            agent = load_agent(name, project, Overrides())
        except PerdureError as error:
            yield Finding(f"agent {name}", False, error.message, error.hint)
            continue
        what = "a workspace and " if agent.workspace else ""
        tools = plural(len(agent.tools), "tool")
        yield Finding(f"agent {name}", True, f"{agent.model}, {what}{tools}")


async def _models(project: Project) -> AsyncIterator[Finding]:
    """Ask each agent's provider whether it answers with this key."""
    from perdure.models.registry import connect, split

    named: dict[str, str] = {}
    for name in project.settings.agents:
        try:
            model = load_agent(name, project, Overrides()).model
            named.setdefault(split(model)[0], model)
        except PerdureError:
            continue  # said above
    for provider, name in named.items():
        options = project.model_options.get(provider)
        try:
            model_port, _ = connect(name, project.environ, options)
            try:
                yield Finding(f"model {provider}", True, clean(await model_port.check()))
            finally:
                await model_port.close()
        except PerdureError as error:
            yield Finding(f"model {provider}", False, error.message, error.hint)


def selftest(what: str, *, json: bool) -> int:
    """Attack the sandbox and say what happened; 1 when anything got through."""
    if what != "sandbox":
        hint = "perdure selftest sandbox"
        raise InvalidRequest("E-USAGE", f"There is no self-test of {what!r}.", hint)
    from perdure.environments.bubblewrap import Bubblewrap
    from perdure.environments.probes import selftest as attack

    screen = Screen(json=json)
    with tempfile.TemporaryDirectory(prefix="perdure-selftest-") as folder:
        results = asyncio.run(attack(Bubblewrap(Path(folder) / "root", SystemClock())))
    failed = [r for r in results if not r.ok]
    if json:
        screen.line(encode({"ok": not failed, "results": results}).decode())
        return 1 if failed else 0
    width = max(len(r.name) for r in results)
    for result in results:
        sign = screen.style("✓", "green") if result.ok else screen.style("✗", "red")
        got = result.got + (f"   {clean(result.detail)}" if result.detail else "")
        screen.line(f"  {sign} {pad(result.name, width)}  {got}")
    screen.line()
    word = (
        f"{len(failed)} of {len(results)} got through"
        if failed
        else f"all {len(results)} were stopped"
    )
    screen.line("  " + screen.style(word, "red" if failed else "green", "bold"))
    return 1 if failed else 0
