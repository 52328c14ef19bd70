"""The command line of bwrap: what a sandboxed command sees, and as whom it runs.

Three ways, because "drop all rights" means something else for each starter:

- USER: started by an ordinary user. A user namespace maps this user to the agent.
- DROP: started by root for files of somebody else. Real root does the mounts, without a user
  namespace (so it works where those are forbidden), then setpriv gives up uid and capabilities.
- KEEP: started by root on root's own files (in place). A user namespace maps root to the agent,
  without any capability outside. The kernel's own limit on processes does not count for root, so
  the watchdog must hold it.

Pure: builds a list of words.
"""

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

import msgspec

from perdure.environments.toolchain import system_arguments

INSIDE: Final = "/run/perdure"
PRIVATE: Final = "/tmp"  # noqa: S108 - inside: a tmpfs that nobody else sees
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the same
_PRIVATE_BYTES: Final = 256 * 1024 * 1024
_NAMESPACES: Final = (
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
_AGENT_ID: Final = 1000


class Way(StrEnum):
    """How rights are given up."""

    USER = "user"
    DROP = "drop"
    KEEP = "keep"


class View(msgspec.Struct, frozen=True):
    """What the command sees. Paths of the host but for `mount` and `home`.

    `hidden` lie inside the workspace and show empty; `read_only` show at their own paths.
    `egress` is the directory with the proxy's socket, "" where there is no way out.
    """

    workspace: str
    mount: str
    home: str
    read_only: tuple[str, ...]
    hidden: tuple[str, ...]
    search: tuple[str, ...]
    prelude: str
    state: str
    next: str
    script: str
    accounts: str
    egress: str = ""
    forward: str = ""


def bwrap_options(way: Way, view: View, *, seccomp: int, status: int) -> list[str]:
    """Return bwrap's options. `seccomp` and `status` are descriptors; -1 for no filter."""
    # Not --die-with-parent: bwrap killed in the middle of its set-up leaves its child waiting for
    # ever. The warden kills what lives when we die; what was not let go yet ends by itself.
    words = [*_NAMESPACES, "--new-session", "--cap-drop", "ALL"]
    if way is Way.DROP:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            words += ["--cap-add", capability]
    else:
        words += ["--unshare-user", "--disable-userns"]
        words += ["--uid", str(_AGENT_ID), "--gid", str(_AGENT_ID)]
    words += ["--hostname", "perdure", *system_arguments(), *_private(view)]
    words += _binds(view)
    # The shell enters the workspace itself: bwrap, without capabilities, might not be let in.
    # And /proc read-only: files like kernel/core_pattern ask for root's uid only, which KEEP has.
    for place in ("/proc", "/dev", "/"):
        words += ["--remount-ro", place]
    words += ["--chdir", "/"]
    words += _environment(view)
    if seccomp >= 0:
        words += ["--seccomp", str(seccomp)]
    return [*words, "--json-status-fd", str(status)]


def dropping(way: Way, uid: int, gid: int) -> list[str]:
    """Return what the command is started through, so that it is nobody in particular."""
    if way is not Way.DROP:
        return []
    words = ["/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    return [*words, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]


def agent_ids(way: Way, uid: int, gid: int) -> tuple[int, int]:
    """Return uid and gid as the command sees its own."""
    return (uid, gid) if way is Way.DROP else (_AGENT_ID, _AGENT_ID)


def _private(view: View) -> list[str]:
    """Return what is the sandbox's own. Sizes count: memory behind tmpfs is nobody's RSS."""
    size = str(_PRIVATE_BYTES)
    return [
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", size, "--perms", "1777", "--tmpfs", _SHARED_MEMORY),
        *("--size", size, "--perms", "1777", "--tmpfs", PRIVATE),
        *("--perms", "0755", "--dir", "/run", "--perms", "0755", "--dir", INSIDE),
        *("--perms", "0755", "--dir", "/var", "--symlink", "../tmp", "/var/tmp"),  # noqa: S108
        *("--ro-bind", f"{view.accounts}/passwd", "/etc/passwd"),
        *("--ro-bind", f"{view.accounts}/group", "/etc/group"),
        *("--ro-bind", f"{view.accounts}/hosts", "/etc/hosts"),
        *("--ro-bind", f"{view.accounts}/nsswitch.conf", "/etc/nsswitch.conf"),
        *("--ro-bind", view.prelude, f"{INSIDE}/shell.bash"),
        *("--ro-bind", view.script, f"{INSIDE}/command"),
        *("--ro-bind-try", view.state, f"{INSIDE}/state"),
        *("--bind", view.next, f"{INSIDE}/next"),
        *_way_out(view),
    ]


def _way_out(view: View) -> list[str]:
    """Return the socket of the proxy: the only thing of the network that is shown."""
    if not view.egress:
        return []
    return [
        *("--ro-bind", view.forward, f"{INSIDE}/forward.py"),
        *("--ro-bind", f"{view.egress}/proxy", f"{INSIDE}/egress"),
        *("--ro-bind-try", f"{view.egress}/ca.pem", f"{INSIDE}/ca.pem"),
    ]


def _binds(view: View) -> list[str]:
    """Bind outer directories before what lies inside them, making the way there passable."""
    binds = {view.mount: ["--bind", view.workspace, view.mount]}
    binds |= {path: ["--ro-bind", path, path] for path in view.read_only}
    binds |= {p: ["--size", "4096", "--tmpfs", p, "--remount-ro", p] for p in view.hidden}
    words: list[str] = []
    done: set[str] = {"/", "/usr", PRIVATE, "/etc", "/run"}
    for path in sorted(binds, key=lambda p: len(PurePosixPath(p).parts)):
        for parent in reversed(PurePosixPath(path).parents):
            inside_bind = any(parent.is_relative_to(b) for b in binds if b in done)
            if str(parent) not in done and not inside_bind:
                words += ["--perms", "0755", "--dir", str(parent)]
                done.add(str(parent))
        words += binds[path]
        done.add(path)
    return words


def _environment(view: View) -> list[str]:
    variables = {
        "PATH": ":".join(view.search),
        "HOME": view.home,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
    }
    words = ["--clearenv"]
    for name, value in variables.items():
        words += ["--setenv", name, value]
    return words
