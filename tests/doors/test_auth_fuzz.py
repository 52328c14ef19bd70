"""Two thousand hostile credentials: each is refused, and none of them breaks anything."""

import asyncio
import random
import socket
from pathlib import Path
from urllib.parse import urlsplit

from tests.doors.serving import up

COUNT = 2000
ALPHABET = [*range(1, 256)]


def header(rng: random.Random, good: str) -> bytes:
    """One Authorization header, wrong in some way, without an end of line in it."""
    noise = bytes(rng.choice(ALPHABET) for _ in range(rng.choice([0, 1, 7, 60, 3000])))
    text = "".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(20)).encode()
    cut = good[: rng.randrange(len(good))]
    kinds = [
        b"Bearer " + noise,
        noise,
        b"Bearer " + text,
        b"bearer  " + cut.encode(),
        b"Bearer " + good.encode() + b"\0",
        b"Bearer " + good.encode() + b" x" + noise,
        b"Basic " + noise,
        b"Bearer pdk_" + noise,
        b"Bearer " + b".".join([noise, noise, noise]),
        b"Bearer eyJhbGciOiJub25lIn0.e30.",
        b"Bearer " + good.swapcase().encode(),
        b"Bearer",
        b"Bearer " * 50 + good.encode(),
        b"\0",
        b"x" * 60_000,
    ]
    return rng.choice(kinds).translate(None, b"\r\n")


def ask(host: str, port: int, headers: list[bytes]) -> int:
    """Send a request with these headers as they are; return the status, 0 when it was cut off."""
    lines = [b"GET /openai/v1/responses/none HTTP/1.1", b"host: x", b"connection: close", *headers]
    with socket.create_connection((host, port), timeout=20) as connection:
        try:
            connection.sendall(b"\r\n".join([*lines, b"", b""]))
            first = connection.makefile("rb").readline()
        except OSError:
            return 0
    return int(first.split()[1]) if first else 0


async def test_hostile_credentials_are_refused_and_break_nothing(tmp_path: Path) -> None:
    async with up({}, tmp_path / "s.db") as server:
        good = await server.key()
        parts = urlsplit(server.url)
        host, port = parts.hostname or "", parts.port or 0
        rng = random.Random(7)
        asked = []
        for _ in range(COUNT):
            many = rng.choice([1] * 20 + [2, 50])
            name = rng.choice([b"Authorization: ", b"X-Api-Key: "])
            asked.append([name + header(rng, good) for _ in range(many)])

        def run() -> list[int]:
            return [ask(host, port, headers) for headers in asked]

        statuses = await asyncio.to_thread(run)
        assert set(statuses) <= {0, 400, 401, 431}, sorted(set(statuses))
        assert statuses.count(401) > COUNT / 3
        fine = await asyncio.to_thread(ask, host, port, [b"Authorization: Bearer " + good.encode()])
        assert fine == 404
