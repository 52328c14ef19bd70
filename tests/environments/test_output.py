"""The clip: beginning and end are kept, the middle is counted."""

from hypothesis import given, strategies as st

from perdure.environments.output import Clip


@given(pieces=st.lists(st.binary(max_size=50)), limit=st.integers(0, 60))
def test_what_is_kept_and_what_is_said(pieces: list[bytes], limit: int) -> None:
    clip = Clip(limit)
    for piece in pieces:
        clip.add(piece)
    whole = b"".join(pieces)
    if len(whole) <= limit:
        assert (clip.text(), clip.dropped_bytes) == (whole, 0)
        return
    dropped = len(whole) - limit
    note = b"\n[... %d bytes left out ...]\n" % dropped
    tail = whole[-(limit - limit // 2) :] if limit else b""
    assert clip.dropped_bytes == dropped
    assert clip.text() == whole[: limit // 2] + note + tail
