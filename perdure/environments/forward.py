"""Inside a sandbox: 127.0.0.1:3128 leads to the proxy's socket. Standard library only.

python3 -I -S forward.py SOCKET PORT: returns when it listens, and goes on in the background.
"""

import contextlib
import os
import socket
import sys
import threading

_PIECE = 1 << 16


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until there are no more."""
    try:
        while data := source.recv(_PIECE):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def serve(inner: socket.socket, path: str) -> None:
    """Lead one connection to the proxy."""
    with inner, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outer:
        try:
            outer.connect(path)
        except OSError:
            return
        back = threading.Thread(target=pump, args=(outer, inner), daemon=True)
        back.start()
        pump(inner, outer)
        back.join()


def main(path: str, port: int) -> None:
    """Listen, step into the background, and serve until the sandbox ends."""
    listening = socket.create_server(("127.0.0.1", port), backlog=64)
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    while True:
        try:
            inner, _ = listening.accept()
            threading.Thread(target=serve, args=(inner, path), daemon=True).start()
        except (OSError, RuntimeError):
            continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
