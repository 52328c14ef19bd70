"""What a tree of sessions has used and may still use, kept by the process that owns its root.

The ledger holds no figures of its own: each session's share is read off its state, and every
change of a state is noted in the same breath as the event that makes it. A reservation is
therefore booked by appending `model.requested`, and nothing can come between the question
whether it fits and the booking: 200 sessions that ask at once overshoot by nothing.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace

from perdure.core import budget
from perdure.core.agent import Limits
from perdure.core.budget import Price, Reservation, Room, shared_limit
from perdure.core.errors import ErrorInfo
from perdure.core.state import CallState, Phase, State
from perdure.core.step import Ask, Rest, Sleep, next_step

_TURN: Final = re.compile(r"t(\d+)")


class Use(NamedTuple):
    """What was used, open reservations included."""

    tokens: int = 0
    micro_usd: int = 0
    steps: int = 0
    calls: int = 0

    def plus(self, other: "Use", sign: int = 1) -> "Use":
        """Return the sum, or with sign -1 the difference."""
        return Use(*(a + sign * b for a, b in zip(self, other, strict=True)))


_NOTHING: Final = Use()


@dataclass
class _Node:
    """One session: its last state, and what all below it used, ever and in its present turn."""

    state: State
    parent: "_Node | None"
    use: Use = _NOTHING
    below: Use = _NOTHING
    below_turn: Use = _NOTHING
    live: bool = False
    seen: bool = False  # whether anybody here has worked on it, or it needed no work
    admitted: set[str] = field(default_factory=set)  # calls let through that have not started
    born: int = 0  # the parent's turn that started it

    def upwards(self) -> "Iterator[_Node]":
        """Yield this session and those above it."""
        node: _Node | None = self
        while node is not None:
            yield node
            node = node.parent


class Ledger:
    """The accounts of one tree. Not for several threads: it lives in the event loop."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def enter(self, state: State) -> None:
        """Note that this process works on the session: its reservations will be settled."""
        self.note(state)
        node = self._nodes[state.id]
        node.live = node.seen = True

    def leave(self, session: str) -> None:
        """Note that nobody here works on the session any more."""
        if session in self._nodes:
            self._nodes[session].live = False
            self._tell()

    def asleep(self) -> list[tuple[str, int]]:
        """Return the sessions below the top that nobody here works on, and the seq up to which
        what they ask for was looked at here.
        """
        nodes = [n for n in self._nodes.values() if n.parent is not None and not n.live]
        return [(n.state.id, n.state.seq if n.seen else 0) for n in nodes]

    def note(self, state: State) -> None:
        """Take a session's newest state. Parents are to be noted before their children."""
        node = self._nodes.get(state.id) or self._add(state)
        before, node.state = node.state, state
        if before.turns != state.turns:
            node.below_turn = _NOTHING
        node.admitted &= _unstarted(state)
        use = _use_of(state, len(node.admitted))
        if use != node.use:
            self._book(node, use)
        if _reserved(before) != _reserved(state) or before.limits != state.limits:
            self._tell()

    def used(self, session: str) -> Use:
        """Return what a session and all below it have used."""
        node = self._nodes[session]
        return node.use.plus(node.below)

    def limited(self, session: str) -> bool:
        """Whether money or tokens are limited for the session, by itself or from above."""
        limits = [node.state.limits for node in self._nodes[session].upwards()]
        return any(each.tokens is not None or each.usd is not None for each in limits)

    def reserve(
        self, session: str, bound: int, price: Price | None, model: str = ""
    ) -> Reservation | ErrorInfo | None:
        """Return what the session's next model call may use, or why it may not be made. `model`
        is what is called, where that is not the agent's own.

        None means: wait for `settled()` and ask again, because calls that are in flight hold
        what this one needs and will give some of it back. Booked by appending the event.
        """
        node = self._nodes[session]
        over = _too_many_steps(node)
        if over is not None:
            return over
        spec = node.state.spec
        spec = replace(spec, model=model) if model not in ("", spec.model) else spec
        now = budget.reserve(spec, self._rooms(node, landed=False), bound, price)
        later = budget.reserve(spec, self._rooms(node, landed=True), bound, price)
        if isinstance(later, ErrorInfo):
            return now
        if isinstance(now, ErrorInfo) or now.max_output_tokens < later.max_output_tokens:
            return None
        return now

    async def settled(self) -> None:
        """Wait until something that was reserved has been given back, or a limit was changed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def admit(self, session: str, calls: Iterable[CallState]) -> ErrorInfo | None:
        """Let tool calls through that are about to start, or return why there are too many."""
        node = self._nodes[session]
        fresh = {c.call.id for c in calls if c.attempt == 0} - node.admitted
        for each in node.upwards():
            limit, used = each.state.limits.tool_calls, _turn_calls(each)
            if limit is not None and used is not None and used + len(fresh) > limit:
                what = f"{limit} tool calls in this turn"
                return shared_limit("tool_calls", what, _named(each, node), tree=_is_tree(each))
        node.admitted |= fresh
        self._book(node, _use_of(node.state, len(node.admitted)))
        return None

    def left(self, session: str, now_us: int) -> Limits:
        """Return what a subagent that starts now in this session could use at most."""
        node = self._nodes[session]
        rooms = self._rooms(node, landed=False)
        tokens = [r.tokens_left for r in rooms if r.tokens_left is not None]
        micro = [r.micro_left for r in rooms if r.micro_left is not None]
        above = [(n.state.limits, n) for n in node.upwards() if n.state.turn]
        steps = [k.steps - (_turn_steps(n) or 0) for k, n in above if k.steps is not None]
        calls = [k.tool_calls - (_turn_calls(n) or 0) for k, n in above if k.tool_calls is not None]
        time = [
            k.wall_s - (now_us - n.state.turn.started_at_us) / 1_000_000
            for k, n in above
            if k.wall_s is not None and n.state.turn is not None
        ]
        return Limits(
            steps=max(0, min(steps)) if steps else None,
            tool_calls=max(0, min(calls)) if calls else None,
            wall_s=max(0.0, min(time)) if time else None,
            tokens=max(0, min(tokens)) if tokens else None,
            usd=max(0, min(micro)) / 1_000_000 if micro else None,
        )

    def _add(self, state: State) -> _Node:
        node = _Node(state, self._nodes.get(state.parent))
        node.seen = isinstance(next_step(state), Rest | Ask | Sleep)
        found = _TURN.match(state.parent_call)
        node.born = int(found[1]) if found else 0
        self._nodes[state.id] = node
        return node

    def _book(self, node: _Node, use: Use) -> None:
        """Put a session's new figures into its own account and those above."""
        change = use.plus(node.use, -1)
        node.use = use
        for below in node.upwards():
            above = below.parent
            if above is None:
                return
            above.below = above.below.plus(change)
            if below.born == above.state.turns:
                above.below_turn = above.below_turn.plus(change)

    def _rooms(self, caller: _Node, *, landed: bool) -> list[Room]:
        """Return what each limit above and including the caller's own leaves; with `landed`, as
        if all that others have in flight came back unused.
        """
        rooms: list[Room] = []
        for node in caller.upwards():
            limits = node.state.limits
            use = node.use.plus(node.below)
            if landed:
                use = use.plus(self._in_flight(node, caller), -1)
            tokens = None if limits.tokens is None else limits.tokens - use.tokens
            micro = None if limits.usd is None else int(limits.usd * 1_000_000) - use.micro_usd
            rooms.append(Room(_named(node, caller), _is_tree(node), limits, tokens, micro))
        return rooms

    def _in_flight(self, top: _Node, caller: _Node) -> Use:
        """Return what is reserved at and below `top` by others that this process works on."""
        total = _NOTHING
        for node in self._nodes.values():
            turn = node.state.turn
            if node is caller or not node.live or turn is None or turn.model is None:
                continue
            if top in node.upwards():
                total = total.plus(_reserved(node.state))
        return total

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _named(node: _Node, caller: _Node) -> str:
    return "" if node is caller else node.state.id


def _is_tree(node: _Node) -> bool:
    return node.below != _NOTHING


def _reserved(state: State) -> Use:
    call = state.turn.model if state.turn else None
    if call is None:
        return _NOTHING
    return Use(call.reserved_tokens, call.reserved_micro_usd or 0)


def _use_of(state: State, admitted: int) -> Use:
    spent = state.spent
    settled = Use(spent.tokens, spent.micro_usd, spent.steps, spent.tool_calls + admitted)
    return settled.plus(_reserved(state))


def _unstarted(state: State) -> set[str]:
    calls = state.turn.calls.values() if state.turn else ()
    return {c.call.id for c in calls if c.attempt == 0 and c.phase is Phase.READY}


def _turn_steps(node: _Node) -> int | None:
    """Return the model calls of a session's present turn, those below it included."""
    turn = node.state.turn
    return None if turn is None else turn.spent.steps + node.below_turn.steps


def _turn_calls(node: _Node) -> int | None:
    turn = node.state.turn
    if turn is None:
        return None
    return turn.spent.tool_calls + len(node.admitted) + node.below_turn.calls


def _too_many_steps(caller: _Node) -> ErrorInfo | None:
    for node in caller.upwards():
        limit, used = node.state.limits.steps, _turn_steps(node)
        if limit is not None and used is not None and used >= limit:
            what = f"{limit} model calls in this turn"
            return shared_limit("steps", what, _named(node, caller), tree=_is_tree(node))
    return None
