"""The keys of the vault: given by the operator, or made once and kept beside the store.

Several keys may be given: the first seals, all of them open. So a key is changed by putting a new
one in front, `perdure admin vault rotate`, and taking the old one away.
"""

import asyncio
import base64
import binascii
import contextlib
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perdure.core.errors import InvalidRequest, Unavailable
from perdure.doors.settings import ServerSettings
from perdure.stores.vault import KEY_BYTES

VARIABLE: Final = "PERDURE_VAULT_KEY"
_COMMAND_S: Final = 30.0
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class VaultKeys:
    """Keys of 32 bytes, the sealing one first; `said` is where they came from, for people. Unless
    they last, nothing may be sealed that outlives this process.
    """

    keys: tuple[bytes, ...] = field(repr=False)
    said: str
    lasting: bool = True


def beside(store: str) -> Path | None:
    """Return where the key lies that nobody gave: beside the store of that URL, if it is a file."""
    if not store.startswith("sqlite:///"):
        return None
    path = Path(store.removeprefix("sqlite:///"))
    return path.with_name(path.name + ".vault-key")


async def vault_keys(
    settings: ServerSettings,
    environ: Mapping[str, str],
    file: Path | None,
    random: Callable[[int], bytes],
    *,
    forgetful: bool = False,
) -> VaultKeys:
    """Return the keys: of PERDURE_VAULT_KEY, else of `vault_key_command`, else of
    `vault_key_file`, else of the `file` beside the store, which is made when there is none.
    Without that file, too, they last as long as this process: enough for a `forgetful` store, and
    for no other one, which other nodes may share.

    Raises `InvalidRequest` and `Unavailable` (E-VAULT-KEY).
    """
    if environ.get(VARIABLE):
        return VaultKeys(_read(environ[VARIABLE], VARIABLE), f"the vault key is {VARIABLE}")
    if settings.vault_key_command:
        text = await _asked(settings.vault_key_command)
        return VaultKeys(_read(text, "vault_key_command"), "the vault key is what a command said")
    if settings.vault_key_file:
        path = Path(settings.vault_key_file)
        keys = await asyncio.to_thread(_of_file, path)
        return VaultKeys(keys, f"the vault key is in {path}")
    if file is None:
        said = "the vault key is forgotten with this process"
        if not forgetful:
            said = "no vault key, so secrets are refused: give all nodes the same vault_key_file"
        return VaultKeys((random(KEY_BYTES),), said, lasting=forgetful)
    made = await asyncio.to_thread(_make, file, random)
    keys = await asyncio.to_thread(_of_file, file)
    how = "was made and put into" if made else "is in"
    said = f"the vault key {how} {file}; keep a copy, but not beside the backups of the store"
    return VaultKeys(keys, said)


def _read(text: str, source: str) -> tuple[bytes, ...]:
    """Return the keys in a text: base64, one after the other. What was read is not repeated."""
    found: list[bytes] = []
    for word in text.replace(",", " ").split():
        key = b""
        with contextlib.suppress(binascii.Error, ValueError):
            key = base64.b64decode(word.translate(str.maketrans("-_", "+/")), validate=True)
        if len(key) != KEY_BYTES:
            raise _wrong(f"{source} does not hold a key: {KEY_BYTES} bytes in base64.")
        found.append(key)
    if not found:
        raise _wrong(f"{source} is empty.")
    return tuple(found)


async def _asked(command: str) -> str:
    words = shlex.split(command)
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except (OSError, IndexError, ValueError) as error:
        raise Unavailable("E-VAULT-KEY", "vault_key_command cannot be started.") from error
    try:
        async with asyncio.timeout(_COMMAND_S):
            said, _ = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(
            "E-VAULT-KEY", f"vault_key_command said nothing for {_COMMAND_S:g} s."
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Unavailable(
            "E-VAULT-KEY", f"vault_key_command failed (exit status {process.returncode})."
        )
    return said.decode("ascii", "replace")


def _of_file(path: Path) -> tuple[bytes, ...]:
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror}.") from error
    if mode & _OPEN_TO_OTHERS:
        raise _wrong(f"{path} can be read by other people.", f"chmod 600 {shlex.quote(str(path))}")
    return _read(text, str(path))


def _make(path: Path, random: Callable[[int], bytes]) -> bool:
    """Make a key unless there is one; two processes at once end up with the same. Durable before
    anything is sealed with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{random(6).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(random(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)  # whole or not at all, and never over another one
        except FileExistsError:
            return False
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _wrong(what: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(
        "E-VAULT-KEY", what, hint or f"head -c 32 /dev/urandom | base64    makes one: {VARIABLE}"
    )
