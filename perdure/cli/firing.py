"""Firing a project's schedules: finding the code of their agents, and what a new session gets."""

import contextlib
from collections.abc import Callable

import msgspec

from perdure.app import Runtime
from perdure.cli.agents import Overrides, load_agent
from perdure.cli.places import Places, Ref
from perdure.config import Project
from perdure.core.budget import price_of
from perdure.core.errors import PerdureError
from perdure.core.events import SessionUpdated
from perdure.core.schedules import Schedule
from perdure.engine.session import Session


def ref_name(schedule: str) -> str:
    """Under which name it is kept how the agent of a schedule is found."""
    return f"schedule:{schedule}"


class Firing:
    """Loads the agents of the project's schedules into a runtime and fires what is due.

    `trouble` is called with a schedule that cannot fire here, and why; `told` with the session of
    each run that has begun.
    """

    def __init__(
        self,
        project: Project,
        runtime: Runtime,
        trouble: Callable[[str, PerdureError], object],
        told: Callable[[str], object],
    ) -> None:
        self._project = project
        self._places = Places(project)
        self._runtime = runtime
        self._trouble = trouble
        self._told = told
        self._given_up: set[tuple[str, int]] = set()

    async def tick(self) -> int | None:
        """Fire what is due; return when the next fire time is, in microseconds since the epoch.

        Raises `Unavailable`.
        """
        engine = await self._runtime.engine()
        schedules = engine.schedules
        schedules.prepare, schedules.told, schedules.blamed = (
            self._prepare, self._told, self._blamed,
        )  # fmt: skip
        for schedule in await schedules.all():
            made = (schedule.name, schedule.made_at_us)
            if made not in self._given_up and engine.agent(schedule.agent) is None:
                try:
                    await self._load(schedule)
                except PerdureError as error:
                    self._given_up.add(made)
                    self._blamed(schedule.name, error)
        return await engine.schedules.tick()

    async def _load(self, schedule: Schedule) -> None:
        ref = self._ref(schedule)
        with contextlib.chdir(ref.directory):
            agent = load_agent(ref.agent, self._project, Overrides())
        await self._runtime.register(agent)

    def _blamed(self, schedule: str, error: PerdureError) -> None:
        self._trouble(f"schedule {schedule}", error)

    def _ref(self, schedule: Schedule) -> Ref:
        known = self._places.ref(ref_name(schedule.name))
        return known or Ref(schedule.name, schedule.agent, str(self._project.root))

    async def _prepare(self, schedule: Schedule, session: Session) -> None:
        """Keep how the session's agent is found; give a new session the project's budget."""
        ref = msgspec.structs.replace(self._ref(schedule), session=session.id)
        if self._places.ref(session.id) is None:
            self._places.remember(ref)
        state = await session.state()
        usd, price = (
            self._project.settings.budget_usd,
            price_of(self._project.prices, state.spec.model),
        )
        if state.seq == 1 and state.limits.usd is None and usd > 0 and price and price.output:
            limits = msgspec.structs.replace(state.limits, usd=usd)
            await session.update(SessionUpdated(by="budget_usd", limits=limits))
