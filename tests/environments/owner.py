"""An owner to be killed: opens a sandbox, starts commands that would live long, says when.

python -m tests.environments.owner KIND ROOT MARK
"""

import asyncio
import sys
from pathlib import Path

from perdure.core.agent import EnvironmentSpec
from tests.environments.doubles import bubblewrap, process


def up(_: bytes = b"") -> None:
    sys.stdout.write("up\n")
    sys.stdout.flush()


async def starts(root: Path, mark: str) -> None:
    box = await bubblewrap(root).open("s", EnvironmentSpec(kind="bubblewrap"), "")
    for _ in range(1000):
        up()
        await box.run(f"setsid sleep {mark} & true")


async def main() -> None:
    kind, root, mark = sys.argv[1:]
    if kind == "starts":
        await starts(Path(root), mark)
    make = bubblewrap if kind == "bubblewrap" else process
    environments = make(Path(root))
    spec = EnvironmentSpec(kind=kind)
    boxes = [await environments.open(f"s{i}", spec, "") for i in range(2)]
    # Said only when all four are sleeping: a child that was forked may not run for a while.
    script = (
        f"trap '' TERM INT HUP; for i in 1 2 3; do setsid nohup sleep {mark} >/dev/null & done; "
        f"(sleep {mark} &) ; "
        f"until [ $(grep -lzx {mark} /proc/[0-9]*/cmdline 2>/dev/null | wc -l) -ge 4 ]; "
        "do :; done; "
        f"echo up; sleep {mark}"
    )

    await asyncio.gather(*(box.run(script, timeout_s=60, on_output=up) for box in boxes))


if __name__ == "__main__":
    asyncio.run(main())
