"""`perdure demo`: a coding agent mends a small shop, is killed on the way, and goes on.

Nothing is pretended. The sandbox is the one every agent gets, the kill is a SIGKILL of the process
that works on the session, and the claims at the end are read from files before they are printed.
Only the model is a script, and says so.
"""

import asyncio
import os
import signal
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import msgspec

from perdure.cli.attend import Attendant
from perdure.cli.changes import changes_of, diff_of
from perdure.cli.elsewhere import only_here
from perdure.cli.ids import rows_of
from perdure.cli.onlooker import Manner, Onlooker
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Places, Ref
from perdure.cli.run import finish, message, order_of
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.cli.wire import Said, Still
from perdure.config import Project, load_project
from perdure.core.errors import InvalidRequest
from perdure.core.events import (
    EnvironmentRestored,
    Event,
    SessionRecovered,
    ToolFinished,
    ToolStarted,
)
from perdure.engine.hub import Live, Progress
from perdure.stores.system import SystemClock

TASK: Final = "The tests of this shop fail. Mend it, and publish the patch."
KILL_AFTER_FILES: Final = 3
PRICES: Final = 6
_MANY: Final = 60


def demo(*, yes: bool, unsandboxed: bool, directory: str) -> int:
    """Carry out the verb."""
    only_here("perdure demo")
    screen = Screen()
    project = load_project(Path.cwd())
    if not unsandboxed:
        _require_sandbox()
    places = Places(project)
    places.prepare()
    session, home = _settled(project, directory)
    _unpack(home)
    ref = Ref(session, "agent.py", str(home), unsandboxed=unsandboxed)
    order = order_of(ref, project, (message(TASK),), create=True, adopt=False)
    order = msgspec.structs.replace(order, workspace=str(home / "shop"))
    show = Show(screen, session, Manner(yes=yes or not screen.can_ask()))
    attendant = Attendant(order, home, places, show)
    show.attendant = attendant
    places.remember(ref)
    show.introduce(project, unsandboxed=unsandboxed)
    status = finish(screen, session, attendant.attend(), show)
    if status == 0:
        status = opened(lambda place: _prove(place, show, home))
    return status


def _require_sandbox() -> None:
    """Raise `Unavailable` (E-SANDBOX-BWRAP) with the fix where no sandbox can be opened."""
    from perdure.environments.bubblewrap import Bubblewrap

    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as folder:
        asyncio.run(Bubblewrap(Path(folder) / "root", SystemClock()).prove())


def _settled(project: Project, directory: str) -> tuple[str, Path]:
    """Return a session id that is free, and the folder that goes with it."""
    taken = {row.id for row in asyncio.run(rows_of(project))}
    names = ["demo", *(f"demo-{number}" for number in range(2, _MANY))]
    parent = Path(directory) if directory else project.root / ".perdure" / "demo"
    for name in names:
        home = (parent / name).resolve()
        if name not in taken and not home.exists():
            return name, home
    raise InvalidRequest("E-DEMO-MANY", f"There are {_MANY} demos in {parent}.", f"rm -r {parent}")


def _unpack(home: Path) -> None:
    """Lay out the agent, its script and the shop."""
    home.mkdir(parents=True)
    _copy(files("perdure.cli").joinpath("demo_data"), home)


def _copy(source: Traversable, target: Path) -> None:
    for each in source.iterdir():
        if each.is_dir():
            (target / each.name).mkdir()
            _copy(each, target / each.name)
        else:
            # Python files ship as .py.txt, so that no tool takes the shop's faults for ours.
            name = each.name.removesuffix(".txt") if ".py." in each.name else each.name
            (target / name).write_bytes(each.read_bytes())


class Show(Onlooker):
    """Looks on like anybody, but kills the worker at the worst moment, once."""

    def __init__(self, screen: Screen, session: str, manner: Manner) -> None:
        super().__init__(screen, session, manner)
        self._command = ""
        self._files = 0
        self.killed_pid = 0
        self.rolled_back: tuple[str, ...] = ()
        self.made_anew = False
        self.tests = ""

    def introduce(self, project: Project, *, unsandboxed: bool) -> None:
        """Say what is about to be seen, and what is real about it."""
        screen = self.screen
        where = "NO sandbox, as you asked" if unsandboxed else "the sandbox (bubblewrap)"
        store = project.store_path
        shown = os.path.relpath(store) if store is not None else project.store_shown
        screen.line()
        screen.line(screen.bold("  A coding agent mends a small shop, and is killed on the way."))
        screen.line(screen.dim("  Only the model is a script: no AI, no key. Real are"))
        screen.line(screen.dim(f"  {where}, the journal ({shown}), and the SIGKILL."))
        if self.manner.yes:
            screen.line(screen.dim("  What it asks is answered with yes."))
        screen.line()
        screen.line(f"  {screen.bold('▸ mender')} on {screen.bold(self.session)}   {TASK}")
        if unsandboxed:
            warning = "  ! NOT SANDBOXED: its commands run as you, with all you may do"
            screen.line(screen.style(warning, "red", "bold"))
        screen.line()

    def event(self, event: Event) -> None:
        """Print it, and note what the claims at the end rest on."""
        if not isinstance(event.payload, SessionRecovered):  # said in our own words already
            super().event(event)
        match event.payload:
            case ToolStarted(call_id=call_id):
                self._command, self._files = call_id, 0
            case EnvironmentRestored(call_id=""):  # nodes have a workspace each, made of snapshots
                self.made_anew = True
            case EnvironmentRestored(paths=paths):
                self.rolled_back = paths
            case ToolFinished(meta=meta, text=text) if "exit_code" in meta and "OK" in text:
                self.tests = text
            case _:
                pass

    def live(self, live: Live) -> None:
        """Show a piece; when the command has done half of its files, kill the worker."""
        super().live(live)
        piece = live.piece
        if isinstance(piece, Progress) and piece.call_id == self._command:
            self._files += piece.text.count("prices/")
            if self._files >= KILL_AFTER_FILES and not self.killed_pid:
                self._kill()

    def _kill(self) -> None:
        assert self.attendant is not None and self.attendant.worker is not None
        process = self.attendant.worker.process
        self.killed_pid = process.pid
        os.kill(process.pid, signal.SIGKILL)

    def killed(self, pid: int, signal_number: int, since_s: float) -> None:
        """Say that this was us."""
        text = f"kill -9 {pid}: the worker is dead, on purpose, with half of the prices changed"
        self.printer.note("✗", text, "", "red", "bold")

    def ready(self, said: Said) -> None:
        """Say who took over, and that nothing is lost."""
        ready = said.ready
        assert ready is not None
        if self.killed_pid:
            text = f"worker {ready.pid} takes over; events 1–{ready.seq} come from the journal:"
            more = "no model call is paid again, and open_ticket is NOT run again"
            self.printer.note("↻", text, more, "yellow")

    def still(self, still: Still) -> bool:
        """Ask as always, but without the usual summary: the claims follow."""
        if any(asked.kind == "resolve" for asked in still.asked):
            self._unknown()
        if still.status == "waiting":
            return super().still(still)
        self.printer.fresh_line()
        return False

    def _unknown(self) -> None:
        """Say why the story ends here without a sandbox."""
        text = "without a sandbox nobody can take a half-done command back, so it is not run again"
        more = "A person decides what became of it. With the sandbox it is rolled back instead."
        self.printer.note("⏸", text, more, "yellow")


async def _prove(place: Opened, show: Show, home: Path) -> int:
    """Print what came of it, each claim checked; return 1 when one does not hold."""
    screen = show.screen
    session = await place.session(show.session)
    changes = (await changes_of(place, session)).changes
    tickets = (home / "tickets.txt").read_text(encoding="utf-8").splitlines()
    prices = [c for c in changes if c.path.startswith("prices/")]
    right = (c.before and c.after and _cents(c.before) == c.after.strip() for c in prices)
    once = all(right) and len(prices) == PRICES
    back = [path for path in show.rolled_back if path.startswith("prices/")]
    undone = f"{len(back)} files: {', '.join(back)}"
    if show.made_anew and not back:
        undone = "the workspace was made anew, as it was before the command"
    killed = f"SIGKILL of process {show.killed_pid}"
    passed = show.tests.strip().splitlines()[-2] if show.tests else ""
    claims = (
        (show.killed_pid > 0, "killed in mid-command", killed),
        (len(tickets) == 1, "open_ticket ran once", f"tickets.txt: {plural(len(tickets), 'line')}"),
        (bool(back) or show.made_anew, "half-done work was taken back", undone),
        (once, "each price was changed once", f"{plural(len(prices), 'file')} compared"),
        (bool(show.tests), "the tests pass", passed),
    )
    screen.line()
    for holds, what, proof in claims:
        sign = screen.style("✓", "green") if holds else screen.style("✗", "red")
        screen.line(f"  {sign} {what:<32} {screen.dim(proof)}")
    screen.line()
    for change in changes:
        if not change.path.startswith("prices/"):
            for line in diff_of(change):
                screen.line("    " + line)
    screen.line(screen.dim(f"    … and {plural(len(prices), 'price')} from euros to cents"))
    _next(screen, show.session)
    return 0 if all(holds for holds, _, _ in claims) else 1


def _cents(euros: bytes) -> bytes:
    return str(round(float(euros) * 100)).encode()


def _next(screen: Screen, session: str) -> None:
    screen.line()
    pairs = [
        (f"perdure show {session}", "the whole story; also --diff, --events, --context"),
        (f"perdure show {session} --apply", "bring the changes to the shop they were copied from"),
        ("perdure new myagent", "an agent of your own"),
        ("export ANTHROPIC_API_KEY=…", "a real model: perdure run … --model anthropic:…"),
    ]
    for number, (command, what) in enumerate(pairs):
        head = "  Next   " if number == 0 else "         "
        screen.line(head + f"{command:<32}" + screen.dim(what))
    screen.line()
