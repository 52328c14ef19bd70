"""The models of a replay: they say again what was recorded, and no breaker holds them up."""

from collections.abc import AsyncIterator, Mapping, Sequence

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.errors import ErrorInfo, InvalidRequest
from perdure.engine.breaker import BreakerRules, Breakers, Way
from perdure.engine.stage import Answer, Stage
from perdure.ports.model import Delta, Model, ModelFailed, ModelReply, ModelRequest, TextDelta


class ToldModels:
    """Finds the same model under every name: one that gives the recorded replies."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def get(self, name: str) -> tuple[Model, str]:
        """See `Models.get`. A model that could not be found then is not found now."""
        match self._stage.recording.due:
            case e.TurnEnded(status="failed", error=error) if error and error.kind == "model":
                raise InvalidRequest(error.code, error.message, error.hint)
            case _:
                return ToldModel(self._stage), name.partition(":")[2]


class ToldBreakers(Breakers):
    """Breakers that hold nobody up: that they did, and where a call went instead, is recorded."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def pick(
        self, models: Sequence[str], missing: Mapping[str, str], now_s: float, rules: BreakerRules
    ) -> Way:
        """See `Breakers.pick`. Only a model that could have been taken is believed."""
        match self._stage.recording.due:
            case e.ModelRequested(model=model, because=because) if because and model in models[1:]:
                return Way(model, because)
            case _:
                return Way(models[0], missing.get(models[0], ""))

    def comes_back(
        self, model: str, call: int, error: ErrorInfo | None, now_s: float, rules: BreakerRules
    ) -> None:
        """See `Breakers.comes_back`: what was recorded opens nothing now."""


class ToldModel:
    """A model that gives the recorded replies and failures."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`."""
        reply = await self._stage.ask(self._reply)
        match reply.status:
            case "ok":
                yield _as_replied(reply)
            case "cancelled":
                if reply.partial:
                    yield TextDelta(reply.partial)
                self._stage.cut()
            case _:
                assert reply.error is not None
                usage = replace(reply.usage, cost_micro_usd=None)
                raise ModelFailed(reply.error, reply.partial, usage)

    async def check(self) -> str:
        """See `Model.check`."""
        return "recorded"

    async def close(self) -> None:
        """Nothing to close."""

    def _reply(self) -> Answer[e.ModelResponded] | None:
        match self._stage.recording.due:
            case e.ModelResponded(status="ok" | "error" | "incomplete") as reply:
                return lambda: reply
            case e.ModelResponded(status="cancelled", model="") as reply:
                return (lambda: reply) if self._stage.interrupted else None
            case _:
                return None


def _as_replied(reply: e.ModelResponded) -> ModelReply:
    return ModelReply(
        items=reply.items,
        usage=replace(reply.usage, cost_micro_usd=None),
        finish=reply.finish,
        raw=reply.raw,
        dialect=reply.dialect,
        provider=reply.provider,
        model=reply.model,
        request_id=reply.request_id,
        dropped=reply.dropped,
    )
