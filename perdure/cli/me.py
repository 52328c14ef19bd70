"""Who is typing, and keys for what they say."""

import getpass
import os
import secrets


def fresh_key() -> str:
    """Return a key that makes a letter arrive once, however many workers are told to post it."""
    return f"cli:{secrets.token_hex(12)}"


def whoami() -> str:
    """Return who is typing, for the journal."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
