"""JSON that loses nothing: NUL, lone surrogates and raw JSON survive together."""

import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from perdure.core.codec import canonical, decode, digest, encode


def joined(text: str) -> str:
    """Two surrogates that make a pair are one character, in JSON as everywhere."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXT = st.text(st.characters(exclude_categories=())).map(joined) | st.sampled_from(
    [
        "\0",
        "\ud800",
        "\udcff\ud800",
        "\U0001f600",
        "\ue000",
        "\ue000d800",
        "\\ud800",
        "\\\\\udc00",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


class Mixed(msgspec.Struct, frozen=True):
    text: str
    raw: msgspec.Raw
    raws: tuple[msgspec.Raw, ...]
    table: dict[str, str]


@given(TEXT, JSON, TEXT)
def test_text_beside_raw_json_survives_a_round_trip(text: str, value: object, key: str) -> None:
    raw = msgspec.Raw(encode(value))
    mixed = Mixed(text, raw, (raw, msgspec.Raw(b"1")), {key: text})
    read = decode(encode(mixed), Mixed)
    assert (read.text, read.table) == (text, {key: text})
    assert json.loads(bytes(read.raw)) == json.loads(bytes(raw))
    assert [json.loads(bytes(r)) for r in read.raws] == [json.loads(bytes(raw)), 1]
    assert encode(read) == encode(mixed)


def test_raw_json_keeps_its_bytes_beside_text_that_is_not_unicode() -> None:
    raw = msgspec.Raw(b'{"n": 1.50e3, "big": 123456789012345678901234567890}')
    read = decode(encode(Mixed("\ud800", raw, (), {})), Mixed)
    assert bytes(read.raw) == bytes(raw)


@given(JSON)
def test_a_digest_does_not_depend_on_the_order_of_keys(value: object) -> None:
    again = json.loads(json.dumps(value, sort_keys=True))
    assert canonical(value) == canonical(again)
    assert digest(value) == digest(again)


@pytest.mark.parametrize("data", [b"", b"{", b'{"text": "\xff"}', b'{"text": 1}', b'"\\ud800'])
def test_what_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data, Mixed)
