"""Valid journals drawn at random: what an owner with dice may write, rewinds and forks included."""

from random import Random

from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import AgentSpec, Effect, Limits, Verdict
from perdure.core.content import Text, ToolCall, Usage
from perdure.core.errors import error_info
from perdure.core.events import Event, Payload
from perdure.core.evolve import evolve
from perdure.core.grants import Grant
from perdure.core.inbox import Signalled, accept
from perdure.core.state import Phase, State
from perdure.core.step import next_step
from perdure.core.timeline import left_since, rewound
from perdure.engine.model_calls import call_prefix

OWNER_DIED = error_info("E-TEST", "tool", "nobody knows")


class History:
    """A journal and the state after each of its events."""

    def __init__(self, name: str, events: tuple[Event, ...] = ()) -> None:
        self.name = name
        self.events: list[Event] = []
        self.states = [State()]
        for event in events:
            self._put(event.payload)
        if not events:
            agent = AgentSpec("a", "m", limits=Limits(steps=4, tool_calls=9))
            self.add(e.SessionCreated(name, agent))

    @property
    def state(self) -> State:
        return self.states[-1]

    def add(self, *payloads: Payload) -> "History":
        for payload in payloads:
            self._put(payload)
        return self

    def rewind(self, to: int) -> "History":
        unsafe = tuple(left_since(self.states[to], self.events[to:]))
        return self.add(e.SessionRewound(to, unsafe=unsafe))

    def fork(self, at: int, name: str) -> "History":
        unsafe = tuple(left_since(self.states[at], self.events[at:]))
        child = History(name, tuple(self.events[:at]))
        return child.add(e.SessionForked(name, self.name, at, unsafe=unsafe))

    def message(self, text: str) -> "History":
        return self.add(e.InputAccepted("message", (Text(text),), text))

    def begin(self) -> "History":
        """Start a turn with the letter that waits longest."""
        return self.add(e.TurnStarted(self.state.queue[0].seq))

    def replies(self, *tools: str) -> "History":
        """Call the model, which asks for these tools or, without any, says something."""
        turn = self.state.turn
        assert turn is not None
        steers = tuple(q.seq for q in self.state.queue if q.kind == "steer")
        self.add(e.ModelRequested("m", turn.failures + 1, steers))
        prefix = call_prefix(self.state, turn.number)
        calls = [
            ToolCall(f"{prefix}{turn.next_call + n}", name, "{}") for n, name in enumerate(tools)
        ]
        used = Usage(input_tokens=10, output_tokens=2, cost_micro_usd=5)
        return self.add(e.ModelResponded("ok", items=(Text("said"), *calls), usage=used))

    def request(self, call: str, effect: Effect, verdict: Verdict = Verdict.ALLOW) -> "History":
        return self.add(e.ToolRequested(call, "t", effect, verdict, f"digest {call}"))

    def start(self, call: str) -> "History":
        assert self.state.turn is not None
        return self.add(e.ToolStarted(call, self.state.turn.calls[call].attempt + 1, 1))

    def _put(self, payload: Payload) -> None:
        state = self.state
        turn = state.turn.number if state.turn else 0
        if isinstance(payload, e.TurnStarted):
            turn = state.turns + 1
        seq = len(self.events) + 1
        event = Event(seq, f"{self.name}-{seq}", seq * 1_000_000, turn, payload)
        if isinstance(payload, e.SessionRewound):
            state = rewound(self.states[payload.to], state, event)
        else:
            state = evolve(state, event)
        self.events.append(event)
        self.states.append(state)


class Drawn(History):
    """A history that goes on by dice."""

    def __init__(self, dice: Random, name: str, events: tuple[Event, ...] = ()) -> None:
        super().__init__(name, events)
        self._dice = dice
        self._letters = 0

    def grow(self, count: int) -> "Drawn":
        for _ in range(count):
            self._letter() if self._dice.random() < 0.2 else self._work()
        return self

    def branch(self, at: int, name: str) -> "Drawn":
        child = Drawn(self._dice, name, tuple(self.events[:at]))
        unsafe = tuple(left_since(self.states[at], self.events[at:]))
        child.add(e.SessionForked(name, self.name, at, unsafe=unsafe))
        return child

    def _letter(self) -> None:
        if self._dice.random() < 0.2:
            self._letters += 1
            name, key = self._dice.choice("xy"), f"signal {self._letters}"
            self.add(*accept(self.state, Signalled(name, key), key))
            return
        if self.state.grants and self._dice.random() < 0.3:
            self.add(e.GrantRevoked(next(iter(self.state.grants))))
            return
        self._say(
            self._dice.choice(("message", "message", "steer", "interrupt", "pause", "resume"))
        )

    def _say(self, kind: str) -> None:
        self._letters += 1
        text = f"{kind} {self.name} {self._letters}"
        said = (Text(text),) if kind in ("message", "steer") else ()
        self.add(e.InputAccepted(kind, said, text))  # type: ignore[arg-type]

    def _work(self) -> None:
        if self.state.turn is None and self._dice.random() < 0.25:
            self.rewind(self._dice.randrange(1, len(self.events) + 1))
            return
        match next_step(self.state):
            case due.Rest(why):
                kind = "message" if why == "idle" else "resume"
                self._say(kind)
            case due.RestoreWorkspace(snapshot):
                self.add(e.EnvironmentRestored(snapshot))
            case due.BeginTurn(seq):
                self.add(e.TurnStarted(seq))
            case due.CallModel():
                self._call_model()
            case due.RecoverModel():
                self.add(e.ModelResponded("lost"))
            case due.EndTurn(status, error):
                for call in self.state.open_calls:
                    self.add(e.ToolFinished(call.call.id, "cancelled"))
                self.add(e.TurnEnded(status, error))
            case step:
                self._work_on_calls(step)

    def _work_on_calls(self, step: due.Step) -> None:
        match step:
            case due.RequestTools(calls):
                effect = self._dice.choice(tuple(Effect))
                verdict = self._dice.choice(tuple(Verdict))
                self.request(calls[0].call.id, effect, verdict)
            case due.RunTools(calls):
                self._run(calls[0].call.id)
            case due.Sleep(timers):
                self.add(e.TimerFired(timers[0].id, text="over"))
            case due.Settle(calls):
                refused = calls[0].phase is Phase.REFUSED
                self.add(e.ToolFinished(calls[0].call.id, "denied" if refused else "ok"))
            case due.RecoverTools(calls):
                self._recover(calls[0].call.id, calls[0].phase)
            case due.Ask(actions):
                self._decide(actions[0].id, actions[0].kind)
            case _:
                raise AssertionError(step)

    def _call_model(self) -> None:
        if self._dice.random() < 0.1:
            made = (e.ContextCompacted, e.ContextRepaired)
            self.add(self._dice.choice(made)(len(self.events)))
            return
        if self._dice.random() < 0.2:
            self.add(e.ModelRequested("m"))
            if self._dice.random() < 0.5:
                self.add(e.ModelResponded("error", error=OWNER_DIED))
            return
        self.replies(*self._dice.choice((("t",), ("t", "t"), ())))

    def _recover(self, call: str, phase: Phase) -> None:
        kind = "approve" if phase is Phase.ASKING else "resolve"
        if phase is Phase.STARTED:
            if self._dice.random() < 0.6:
                self.add(e.ToolFinished(call, "ok"), e.EnvironmentSnapshotted(f"s{call}", call))
                return
            if self._dice.random() < 0.3:
                self.add(e.ToolFinished(call, "retry", error=OWNER_DIED, retry_at_us=1))
                return
            self.add(e.ToolFinished(call, "unknown", error=OWNER_DIED))
        action = f"a{self.state.next_action}"
        self.add(e.ActionRequested(action, kind, call, "?", "d"))  # type: ignore[arg-type]

    def _decide(self, action: str, kind: str) -> None:
        words = ("allow", "deny") if kind == "approve" else ("done", "failed", "rerun")
        if kind == "answer":
            words = ("done", "failed")
        word = self._dice.choice(words)
        grant = Grant(f"g{action}", "t", "d") if word == "allow" else None
        self.add(e.ActionResolved(action, word, digest="d", grant=grant))  # type: ignore[arg-type]

    def _run(self, call: str) -> None:
        """Start a call, leave it to a client, or let it sleep."""
        dice = self._dice.random()
        assert self.state.turn is not None
        if self.state.turn.calls[call].attempt or dice < 0.7:
            self.start(call)
        elif dice < 0.85:
            action = f"a{self.state.next_action}"
            self.add(e.ActionRequested(action, "answer", call, "?", "d"))
        else:
            self.add(e.TimerSet(f"w{self.state.next_timer}", call, 1, "x"))


def interrupted(history: History) -> History:
    """End the open turn as an interrupt does."""
    history.add(e.InputAccepted("interrupt", (), f"stop {len(history.events)}"))
    for call in history.state.open_calls:
        history.add(e.ToolFinished(call.call.id, "cancelled"))
    return history.add(e.TurnEnded("cancelled"))


def same_but(one: State, other: State, *fields: str) -> bool:
    """Whether two states differ in these fields at most."""
    return replace(one, **{f: getattr(other, f) for f in fields}) == other
