"""`python -m bench.server`: a server under many streams and sessions. Prints what was found."""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import httpx2

from bench.served import Served, served

_AT_ONCE = 100


async def _say(client: httpx2.AsyncClient, session: str, key: str) -> None:
    path = f"/api/sessions/{session}/messages"
    (await client.post(path, json={"text": "go on", "key": key})).raise_for_status()


async def _until(
    client: httpx2.AsyncClient, session: str, turns: int, late_ms: list[float], after: int = 0
) -> float:
    """Follow until so many turns have ended; return the seconds until the first event."""
    headers = {"accept": "text/event-stream"}
    begun, first = time.monotonic(), 0.0
    path = f"/api/sessions/{session}/events?after={after}"
    async with client.stream("GET", path, headers=headers) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                first = first or time.monotonic() - begun
                if '"at_us"' in line:
                    late_ms.append(time.time() * 1000 - json.loads(line[6:])["at_us"] / 1000)
            elif line == "event: turn.ended":
                turns -= 1
            if turns <= 0 and first:
                return first
    return first


async def streams(here: Served, readers: int, seconds: int) -> str:
    """So many read a session that has about 10 events a second."""
    async with here.client() as client:
        await client.post("/api/sessions", json={"agent": "clerk", "id": "watched"})
        before, each, late = here.rss_kib(), 0.0, list[float]()
        tasks = [
            asyncio.create_task(_until(client, "watched", seconds, late)) for _ in range(readers)
        ]
        for number in range(seconds):
            await asyncio.sleep(1)
            await _say(client, "watched", f"w{number}")
            if number == seconds // 2:
                each = (here.rss_kib() - before) / readers
        await asyncio.gather(*tasks)
        cut = quantiles(late, n=100)
        return (
            f"{readers} readers, {len(late) / seconds:.0f} events/s in all: an event is seen after "
            f"{cut[49]:.0f} ms (p50), {cut[98]:.0f} ms (p99); {each:.0f} KiB RSS for each stream"
        )


async def sessions(here: Served, count: int) -> str:
    """So many sessions work at once: two model calls and a tool each."""
    async with here.client() as client:
        before, begun, gate = here.rss_kib(), time.monotonic(), asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                body = {"agent": "clerk", "id": f"many-{number}", "message": "go"}
                (await client.post("/api/sessions", json=body)).raise_for_status()

        await asyncio.gather(*(one(number) for number in range(count)))
        asked = time.monotonic() - begun

        async def done(number: int) -> None:
            async with gate:
                await _until(client, f"many-{number}", 1, [])

        await asyncio.gather(*(done(number) for number in range(count)))
        took = time.monotonic() - begun
        each = (here.rss_kib() - before) / count
        return (
            f"{count} sessions with a tool: begun in {asked:.1f} s, all done in {took:.1f} s "
            f"({count / took:.0f}/s); {each:.0f} KiB RSS for each session in memory"
        )


async def first_token(here: Served, times: int) -> str:
    """Until the first event with text of a response, with a model that answers at once."""
    took = []
    async with here.client() as client:
        body = {"model": "talk", "input": [{"role": "user", "content": "hi"}], "stream": True}
        for _ in range(times):
            begun = time.monotonic()
            async with client.stream("POST", "/openai/v1/responses", json=body) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("event: response.output_item.added"):
                        took.append((time.monotonic() - begun) * 1000)
                        break
    cut = quantiles(took, n=20)
    return f"added before a response's first item: {median(took):.1f} ms (p50), {cut[18]:.1f} (p95)"


async def resuming(here: Served, events: int) -> str:
    """A stream that is taken up again behind event `events`."""
    async with here.client() as client:
        await client.post("/api/sessions", json={"agent": "clerk", "id": "long"})
        number, last = 0, 0
        while last <= events:
            for _ in range(20):
                await _say(client, "long", f"l{number}")
                number += 1
            await _until(client, "long", 20 if number else 0, [], last)
            last = (await client.get("/api/sessions/long")).json()["row"]["seq"]
        took = [await _until(client, "long", 0, [], last - 5) * 1000 for _ in range(20)]
        return f"a stream resumed at event {last}: first event after {median(took):.1f} ms (p50)"


async def measure(folder: Path, *, quick: bool) -> None:
    """Measure and print."""
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    async with served(folder, turns=50 if quick else 2500) as here:
        print(await first_token(here, 20 if quick else 200), flush=True)
        print(await sessions(here, 20 if quick else 1000), flush=True)
        print(await streams(here, 10 if quick else 500, 3 if quick else 10), flush=True)
        print(await resuming(here, 100 if quick else 10_000), flush=True)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="small loads: does it run at all?")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), quick=parser.parse_args().quick))


if __name__ == "__main__":
    main()
