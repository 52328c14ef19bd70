"""Hostile requests at all doors: `python -m tests.doors.fuzz --count 100000`.

No answer may be a fault of the server's own (>= 500), none may tell what is inside (stacks, paths,
another project's words), and none may take long. Everything follows from the seed.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perdure.doors.settings import ServerSettings
from perdure.engine.agent import Agent
from perdure.serving.server import Server
from tests.doors.hostile import Asked, Maker
from tests.doors.serving import Reply, script, up

CANARY: Final = "CANARY-7731-other"
_AT_ONCE: Final = 24
_PATIENCE_S: Final = 0.2  # then the client hangs up
_HANG_S: Final = 20.0
_UPSTREAM: Final = (b'"E-MODEL-', b'"E-MCP-')  # what somebody else's server did
_TELLTALE: Final = (
    b"Traceback",
    b"site-packages",
    b"/perdure/",
    b"apsw.",
    b"sqlite3",
    CANARY.encode(),
    b'File \\"',
    b"msgspec",
)


@dataclass
class Found:
    """What a run found. `bad` must be empty."""

    asked: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    hung_up: int = 0


async def ask(server: Server, asked: Asked, found: Found) -> None:
    """Send one request past the socket, as bytes that uvicorn would hand on."""
    left, gone = [asked.body], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": asked.cut}
        if not asked.cut:
            await gone.wait()
        return {"type": "http.disconnect"}

    pieces: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            asked.status = message["status"]
            pieces.extend(name + b": " + value for name, value in message["headers"])
        else:
            pieces.append(message.get("body", b"")[: 1 << 16])

    raw = asked.path.encode("utf-8", "replace")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": raw.decode(),
        "raw_path": raw,
        "root_path": "",
        "query_string": asked.query,
        "headers": asked.headers,
        "client": ("203.0.113.9", 5),
        "server": ("x", 1),
    }
    task = asyncio.ensure_future(server.app(scope, receive, send))
    done, _ = await asyncio.wait({task}, timeout=_PATIENCE_S)
    if not done:
        found.hung_up += 1
        gone.set()
        done, _ = await asyncio.wait({task}, timeout=0.2)
    if not done:  # what uvicorn does when a client that waits for an answer goes: nothing
        done, _ = await asyncio.wait({task}, timeout=_HANG_S)
        if not done:
            found.bad.append(f"hangs: {asked}")
            task.cancel()
            await asyncio.wait({task})
    asked.answer = b"\n".join(pieces)
    if done and (error := task.exception()) is not None:
        found.bad.append(f"raised {error!r}: {asked}")


def judge(asked: Asked, found: Found, secrets: Sequence[bytes]) -> None:
    """Note what must not be."""
    found.asked += 1
    found.statuses[asked.status] += 1
    theirs = asked.status == 503 and any(code in asked.answer for code in _UPSTREAM)
    if asked.status >= 500 and not theirs:
        found.bad.append(str(asked))
    leaks = [each for each in (*_TELLTALE, *secrets) if each in asked.answer]
    if leaks:
        found.bad.append(f"tells {leaks}: {asked}")


def routes_of(server: Server) -> list[tuple[str, str]]:
    """Return method and path of everything that is served over HTTP."""
    faces = server.faces
    found = [(e.method, face.prefix + e.path) for face in faces for e in face.endpoints]
    plain = ["/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/docs", "/", "/nowhere"]
    assert len(found) > 20
    return [*found, *(("GET", path) for path in plain)]


async def fuzz(folder: Path, count: int, seed: int, *, bad_most: int = 30) -> Found:
    """Ask `count` times; stop early at `bad_most` findings."""
    found, folder = Found(), folder / "inner"
    folder.mkdir()
    models = {"talk": script(Reply(text="Hello."), *[Reply(text="again")] * 200)}
    clerk = Agent("clerk", model="test:talk")
    roomy = ServerSettings(
        models={"talk": "test:talk"},
        default_model="talk",
        requests_per_minute=10**9,
        max_body_bytes=200_000,
    )
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            up(models, folder / "s.db", settings=roomy, agents=[clerk])
        )
        other = await here.openai("other")
        await other.responses.create(model="talk", input=CANARY)
        key, secret = await here.key(role="admin"), await here.key("other")
        maker = Maker(routes_of(here.server), key, seed)
        secrets = [str(folder).encode(), secret.encode()]
        running: set[asyncio.Task[None]] = set()

        async def one(asked: Asked) -> None:
            await ask(here.server, asked, found)
            judge(asked, found, [*secrets, key.encode()] if "keys" not in asked.path else secrets)
            _learn(maker, asked)

        for number in range(count):
            if len(found.bad) >= bad_most:
                break
            if len(running) >= _AT_ONCE:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            running.add(asyncio.ensure_future(one(maker.make())))
            if number % 10_000 == 9_999:
                print(f"{number + 1} asked, {len(found.bad)} bad", file=sys.stderr, flush=True)  # noqa: T201
        await asyncio.gather(*running)
    return found


def _learn(maker: Maker, asked: Asked) -> None:
    """Remember an id of an answer; the newest few are kept."""
    if asked.status not in (200, 201):
        return
    at = asked.answer.find(b'"id":"')
    if at >= 0:
        name = asked.answer[at + 6 : at + 120].partition(b'"')[0].decode("utf-8", "replace")
        if name and "\\" not in name:
            maker.known = [*maker.known[-60:], name]


def main() -> int:
    """Run, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.doors.fuzz", description=main.__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(fuzz(Path(folder), options.count, options.seed))
    print(f"{found.asked} requests, by status: {dict(sorted(found.statuses.items()))}")  # noqa: T201
    print(f"{found.hung_up} left while the server was still answering")  # noqa: T201
    for bad in found.bad:
        print(f"BAD {bad}")  # noqa: T201
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(main())
