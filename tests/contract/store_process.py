"""A process that uses a store, so that tests can stop and kill it. Says on stdout what it has done.

hold PATH SESSION      claim, append one event, wait for a line, then append another and close
append PATH SESSION N  claim, then append N events, saying each seq as it is acknowledged
child PATH SESSION     as hold, with a child of its own that stays behind
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL

from perdure.stores.sqlite import SqliteStore
from perdure.testing.store_harness import Pen


def say(word: str, *numbers: int) -> None:
    sys.stdout.write(" ".join([word, *map(str, numbers)]) + "\n")
    sys.stdout.flush()


async def hold(path: str, session: str, *, child: bool = False) -> None:
    store = await SqliteStore.open(path)
    pen = Pen(await store.claim(session))
    await store.append(pen.batch(b"held"))
    if child:
        # Lets every descriptor through that does not close by itself.
        left = await asyncio.create_subprocess_exec(
            "sleep", "600", close_fds=False, stdin=DEVNULL, stdout=DEVNULL
        )
        say("child", left.pid)
    say("ready", pen.epoch)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await store.append(pen.batch(b"let go"))
    await store.close()
    say("done")


async def append(path: str, session: str, count: int) -> None:
    store = await SqliteStore.open(path)
    pen = Pen(await store.claim(session))
    say("ready", pen.epoch)

    async def one() -> None:
        answer = store.append(pen.batch(b"a" * 300, b"b" * 300))
        seq = pen.seq
        await answer
        say("ack", seq)

    for _ in range(count // 4):
        await asyncio.gather(*(one() for _ in range(4)))
    await store.close()
    say("done")


def main() -> None:
    verb, path, session, *rest = sys.argv[1:]
    if verb == "append":
        asyncio.run(append(path, session, int(rest[0])))
    else:
        asyncio.run(hold(path, session, child=verb == "child"))


if __name__ == "__main__":
    main()
