"""Short text for people: pure functions, no process."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from perdure.cli.flow import Flow
from perdure.cli.text import arguments, clean, clip, duration, usd, width_of, wrap
from perdure.config import line_of, load_project

TEXT = st.text(max_size=200)


@given(TEXT)
def test_what_is_cleaned_moves_no_cursor(text: str) -> None:
    assert not any(ord(c) < 32 and c not in "\n\t" for c in clean(text))
    assert not any(0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\u200b" for c in clean(text))
    clean(text).encode("utf-8")


@given(TEXT, st.integers(2, 40))
def test_what_is_clipped_fits(text: str, width: int) -> None:
    assert width_of(clip(clean(text), width)) <= width


@given(st.lists(TEXT, max_size=6), st.integers(20, 60))
def test_a_stream_is_laid_out_as_if_it_had_come_at_once(pieces: list[str], width: int) -> None:
    together, apart = Flow(4, width), Flow(4, width)
    whole = together.feed("".join(pieces)) + together.rest()
    # A cut may fall inside a colour code, so pieces are cleaned as a whole before.
    text = clean("".join(pieces)).expandtabs(4)
    cut = len(text) // 2
    assert apart.feed(text[:cut]) + apart.feed(text[cut:]) + apart.rest() == whole


def test_words_are_kept_whole_where_they_fit() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("/a/path/longer/than/that", 7) == ["/a/path/longer/than/that"]
    flow = Flow(2, 9)
    assert flow.feed("one two three ") + flow.rest() == "one two\n  three"


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0 ms"), (1500, "1 ms"), (2_340_000, "2.3 s"), (3_600_000_000, "60 min"), (-5, "0 ms")],
)
def test_durations(us: int, text: str) -> None:
    assert duration(us) == text


def test_money_keeps_the_places_that_matter() -> None:
    assert (usd(1234), usd(2_500_000)) == ("$0.0012", "$2.50")


@pytest.mark.parametrize(
    ("given_", "brief", "shown"),
    [
        ('{"order": 9, "eur": 4.0}', False, "order=9, eur=4.0"),
        ('{"command": "make test"}', True, "make test"),
        ('{"path": "a.py", "old": "x", "new": "y"}', True, "a.py"),
        ('{"command": "a\\nb"}', True, "a b"),
        ("{broken", False, "{broken"),
        ('["a"]', False, '["a"]'),
    ],
)
def test_arguments_read_well(given_: str, brief: bool, shown: str) -> None:
    assert arguments(given_, brief=brief) == shown


def test_a_key_is_found_on_its_line() -> None:
    text = 'a = 1\n\n[x."y.z"]\nb = 2\n[[l]]\nc = 1\n[[l]]\nc = 2\n'
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("x", "y.z", "b")) == 4
    assert line_of(text, ("l", 1, "c")) == 8
    assert line_of(text, ("x", "y.z")) == 3
    assert line_of(text, ("nowhere",)) == 1


def test_the_nearest_file_above_counts(tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text('store = "sqlite:///s.db"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    project = load_project(inner, {})
    assert project.root == tmp_path
    assert project.store_path == tmp_path / "s.db"
    assert load_project(inner, {"PERDURE_STORE": "memory:"}).store_path is None
