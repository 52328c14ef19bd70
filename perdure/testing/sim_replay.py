"""Every journal that a simulated run leaves behind replays exactly, crashes and all."""

import asyncio
from collections.abc import Mapping, Sequence

from perdure.core.events import Event
from perdure.engine.replay import replay


def replayed(journals: Mapping[str, Sequence[Event]]) -> list[str]:
    """Replay each journal; say which are not what the engine would write again."""
    return asyncio.run(_replayed(journals))


async def _replayed(journals: Mapping[str, Sequence[Event]]) -> list[str]:
    wrong: list[str] = []
    for name, events in journals.items():
        try:
            report = await replay(events)
        except Exception as error:  # noqa: BLE001  # what is broken on purpose breaks anything
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if not report.identical:
            wrong.append(str(report))
    return wrong
