"""What came out when the PostgreSQL store was looked at by somebody who had not written it."""

import pytest

from perdure.core.errors import InvalidRequest
from perdure.stores.postgres.address import parse

SPECIAL = [
    "s3cr#et",
    "s3cr/et",
    "s3cr?et",
    "s3cr[et",
    "s3cr\N{ACCOUNT OF}et",
    "12/s3cret",
    "12?s3cret",
]


@pytest.mark.parametrize("word", SPECIAL)
def test_a_password_that_breaks_the_address_is_not_taken_for_a_host_and_shown(word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(f"postgresql://perdure:{word}@db.example/work")
    said = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert caught.value.code == "E-STORE-URL"
    assert "s3c" not in said and "et" not in said.replace("letters", "")


def test_what_is_secret_is_not_shown_whatever_it_is_called() -> None:
    secrets = (
        "password=a1&sslpassword=a2&oauth_client_secret=a3&scram_client_key=a4&sslmode=require"
    )
    assert parse(f"postgresql://u@h/d?{secrets}").shown == "postgresql://u@h/d?sslmode=require"


def test_libpq_gets_what_was_written() -> None:
    given = "postgresql://u@h1:1,[::1]:2/d?options=-c%20geqo%3Doff&password=a+b%2Bc"
    assert parse(given).libpq == given.replace("a+b", "a%2Bb")


def test_a_schema_is_as_long_as_its_channel_may_be() -> None:
    assert parse(f"postgresql:///d?schema={'s' * 55}").schema == "s" * 55
    with pytest.raises(InvalidRequest):
        parse(f"postgresql:///d?schema={'s' * 56}")
