"""Where the vault's keys come from, and changing them."""

import base64
import os
import stat
from pathlib import Path

import pytest

from perdure.core.errors import InvalidRequest, PerdureError, Unavailable
from perdure.core.secrets import Secret
from perdure.doors.settings import ServerSettings
from perdure.serving.vault_key import beside, vault_keys
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.projects import ProjectStores
from perdure.stores.vault import SealedVault

OLD, NEW = b"o" * 32, b"n" * 32


def text(*keys: bytes) -> str:
    return " ".join(base64.b64encode(key).decode() for key in keys)


async def test_a_key_is_made_once_beside_the_store_and_for_its_owner_only(tmp_path: Path) -> None:
    file = beside(f"sqlite:///{tmp_path / 'deep' / 's.db'}")
    assert file == tmp_path / "deep" / "s.db.vault-key"
    made = await vault_keys(ServerSettings(), {}, file, os.urandom)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = await vault_keys(ServerSettings(), {}, file, os.urandom)
    assert made.keys == again.keys
    assert "was made" in made.said
    assert "was made" not in again.said
    assert list(file.parent.iterdir()) == [file]
    assert text(*made.keys) not in repr(made) + made.said


async def test_what_is_given_comes_before_what_is_made(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text(OLD))
    file.chmod(0o600)
    word = text(NEW, OLD)
    settings = ServerSettings(vault_key_file=str(file))
    asked = ServerSettings(vault_key_file=str(file), vault_key_command=f"echo {text(NEW)}")
    environ = {"PERDURE_VAULT_KEY": word}
    for given, variables, wanted in (
        (asked, environ, (NEW, OLD)),
        (asked, {}, (NEW,)),
        (settings, {}, (OLD,)),
    ):
        assert (await vault_keys(given, variables, None, os.urandom)).keys == wanted


@pytest.mark.parametrize("word", ["short", text(b"31 bytes"), "canary!!", " "])
async def test_what_is_no_key_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await vault_keys(ServerSettings(), {"PERDURE_VAULT_KEY": word}, None, os.urandom)
    assert error.value.code == "E-VAULT-KEY"
    assert not word.strip() or word not in error.value.message


async def test_a_file_that_others_can_read_and_a_command_that_fails_are_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    file.write_text(text(OLD))
    file.chmod(0o644)
    for settings in (
        ServerSettings(vault_key_file=str(file)),
        ServerSettings(vault_key_file=str(tmp_path / "none")),
        ServerSettings(vault_key_command="false"),
        ServerSettings(vault_key_command="/no/such/program"),
    ):
        with pytest.raises(PerdureError) as error:
            await vault_keys(settings, {}, None, os.urandom)
        assert error.value.code == "E-VAULT-KEY"


async def test_after_a_rotation_the_old_key_opens_nothing_and_is_not_needed() -> None:
    stores = ProjectStores(MemoryStore(MemoryDisk()))
    store = stores.of("team")
    before = SealedVault(store, [OLD], os.urandom)
    await before.put("v/a", Secret("one"))
    await before.put("v/b", Secret("two"))
    both = SealedVault(store, [NEW, OLD], os.urandom)
    await both.put("v/c", Secret("three"))
    assert await both.reseal() == 2
    assert await both.reseal() == 0
    after = SealedVault(store, [NEW], os.urandom)
    found = [await after.get(f"v/{name}") for name in "abc"]
    assert found == [Secret("one"), Secret("two"), Secret("three")]
    with pytest.raises(Unavailable):
        await before.get("v/a")
    with pytest.raises(Unavailable):
        await before.reseal()
    await stores.close()


async def test_a_store_that_outlives_the_key_takes_no_secrets() -> None:
    held = await vault_keys(ServerSettings(), {}, None, os.urandom)
    assert not held.lasting and "same vault_key_file" in held.said
    disk = MemoryDisk()
    vault = SealedVault(MemoryStore(disk), held.keys, os.urandom, sealing=held.lasting)
    with pytest.raises(Unavailable) as raised:
        await vault.put("token", Secret("s3cret"))
    assert raised.value.code == "E-VAULT-KEY" and "s3cret" not in str(raised.value)
    assert await vault.get("token") is None
    forgetful = await vault_keys(ServerSettings(), {}, None, os.urandom, forgetful=True)
    assert forgetful.lasting
