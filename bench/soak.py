"""`make soak`: steady load on a real server that is killed every minute. Nothing may be lost."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from bench.served import Served, served

_CLIENTS = 8
_RETRY_S = 0.2


@dataclass
class Soaked:
    """What came of it. `lost` counts acknowledged messages and seen events that were gone later."""

    turns: int = 0
    kills: int = 0
    lost: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)  # messages by session
    seen: dict[str, dict[int, str]] = field(default_factory=dict)  # events' ids by session and seq


async def soak(folder: Path, minutes: float) -> Soaked:
    """Load a server for so long."""
    found, over = Soaked(), asyncio.Event()
    async with served(folder) as here:
        clients = [asyncio.create_task(_client(here, n, found, over)) for n in range(_CLIENTS)]
        end = time.monotonic() + minutes * 60
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(55.0, left))
            found.rss.append(here.rss_kib())
            if end - time.monotonic() > 5:
                await here.kill()
                await here.start()
                found.kills += 1
        over.set()
        await asyncio.gather(*clients)
        await _check(here, found)
    return found


async def _client(here: Served, number: int, found: Soaked, over: asyncio.Event) -> None:
    """Talk in sessions of 20 turns, following the events, whatever dies."""
    session, turn = "", 0
    while not over.is_set():
        try:
            async with here.client() as client:
                while not over.is_set():
                    if turn % 20 == 0:
                        session = f"soak-{number}-{turn}"
                        body = {"agent": "clerk", "id": session}
                        (await client.post("/api/sessions", json=body)).raise_for_status()
                        found.seen.setdefault(session, {})
                    say = {"text": "go on", "key": f"k{turn}"}
                    path = f"/api/sessions/{session}/messages"
                    (await client.post(path, json=say)).raise_for_status()
                    found.acknowledged[session] = found.acknowledged.get(session, 0) + 1
                    await _follow(client, session, found.seen[session], turn % 20 + 1)
                    turn += 1
                    found.turns += 1
        except (httpx2.HTTPError, OSError, ConnectionError):
            if found.seen.get(session) is not None:
                found.acknowledged[session] = turn % 20
            await asyncio.sleep(_RETRY_S)


async def _follow(
    client: httpx2.AsyncClient, session: str, seen: dict[int, str], turns: int
) -> None:
    """Read events behind the last one that was seen until that many turns have ended."""
    after = max(seen, default=0)
    headers = {"accept": "text/event-stream"}
    path = f"/api/sessions/{session}/events?after={after}"
    ended = sum(1 for each in seen.values() if each == "turn.ended")
    if ended >= turns:
        return
    async with client.stream("GET", path, headers=headers) as stream:
        seq = 0
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                seq = int(line[4:])
            elif line.startswith("event: ") and seq > after:
                seen[seq], after = line[7:], seq
                ended += line == "event: turn.ended"
                if ended >= turns:
                    return
    raise OSError("the stream ended early")


async def _check(here: Served, found: Soaked) -> None:
    """Compare what was acknowledged and seen with what is stored."""
    async with here.client() as client:
        for session, seen in found.seen.items():
            stored = await _stored(client, session)
            found.lost += [f"{session}:{n} {t}" for n, t in seen.items() if stored.get(n) != t]
            taken = sum(1 for each in stored.values() if each == "input.accepted")
            if taken < found.acknowledged.get(session, 0):
                found.lost.append(f"{session}: {found.acknowledged[session] - taken} messages")


async def _stored(client: httpx2.AsyncClient, session: str) -> Mapping[int, str]:
    stored: dict[int, str] = {}
    while True:
        path = f"/api/sessions/{session}/events?limit=1000&after={max(stored, default=0)}"
        page = (await client.get(path)).json()["events"]
        stored |= {each["seq"]: each["payload"]["type"] for each in page}
        if len(page) < 1000:
            return stored


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soak(Path(folder), options.minutes))
    print(f"{found.turns} turns in {len(found.seen)} sessions, {found.kills} kills")
    print(f"RSS before each kill: {', '.join(f'{each // 1024} MiB' for each in found.rss)}")
    print(f"lost: {len(found.lost)}")
    for each in found.lost[:20]:
        print(f"  {each}")
    return 1 if found.lost or not found.turns else 0


if __name__ == "__main__":
    sys.exit(main())
