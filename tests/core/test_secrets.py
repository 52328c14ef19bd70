"""A secret does not leak by any of the ways in which values leak."""

import copy
import pickle

import msgspec
import pytest

from perdure.core.codec import encode
from perdure.core.secrets import Secret, scrub
from perdure.ports.model import ModelOptions

VALUE = "sk-very-secret-value-0123456789"


def test_it_is_never_shown() -> None:
    secret = Secret(f" {VALUE}\n")
    assert secret.reveal() == VALUE, "white space around a pasted key is no part of it"
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", "".join(map(str, [secret]))]
    shown += [repr([secret]), repr(ModelOptions(api_key=secret)), repr(vars_of(secret))]
    assert VALUE not in "".join(shown)


def vars_of(secret: Secret) -> object:
    return getattr(secret, "__dict__", None)


def test_it_is_never_encoded() -> None:
    secret = Secret(VALUE)
    for value in (secret, {"key": secret}, ModelOptions(api_key=secret)):
        with pytest.raises(TypeError):
            encode(value)
        with pytest.raises(TypeError):
            msgspec.to_builtins(value)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)


def test_it_masks_itself_and_what_looks_like_a_key() -> None:
    assert Secret("plain-word").scrub("a plain-word b") == "a *** b"
    assert scrub(f"key {VALUE}, Authorization: Bearer abcdef123456") == (
        "key ***, Authorization: ***"
    )
    assert scrub("a task-force of risk-takers asked") == "a task-force of risk-takers asked"


def test_equality_and_emptiness() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")
    assert repr(Secret("")) == "Secret()"
