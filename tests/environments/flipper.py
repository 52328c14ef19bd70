"""An agent that cheats: flips a directory and a link, a file and a link, as fast as it can.

python flipper.py WORKSPACE OUTSIDE SECONDS
"""

import contextlib
import os
import sys
import time


def main() -> None:
    work, outside, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    os.chdir(work)
    os.makedirs("real", exist_ok=True)  # noqa: PTH103
    with open("real/f", "w") as file:  # noqa: PTH123
        file.write("mine")
    os.symlink(outside, "lure")  # noqa: PTH211
    os.rename("real", "d")  # noqa: PTH104
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(200):
            for pair in (("d", "real"), ("lure", "d"), ("d", "lure"), ("real", "d")):
                with contextlib.suppress(OSError):
                    os.rename(*pair)  # noqa: PTH104


if __name__ == "__main__":
    main()
