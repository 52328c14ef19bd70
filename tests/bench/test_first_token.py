"""The table of the first token: what a ratio is, and that the document has the stored run."""

import msgspec
import pytest

from bench.first_token import BEGIN, END, ROOT, SHOWN, Found, Pairs, between, table


def test_a_ratio_is_of_the_two_calls_of_a_pair() -> None:
    cell = Pairs("/v1/responses", 300.0, [10.0, 20.0, 40.0], [20.0, 60.0, 40.0])
    text = table(Found("2026-01-01", 2, 0.5, 0.7, [cell]))

    assert cell.ratios == [2.0, 3.0, 1.0]
    row = text.splitlines()[-1]
    assert (
        row == "| after 300 ms | `/v1/responses` | 20.0 | 40.0 | 10.0 | 2.00 | 1.10 to 2.90 | 3 |"
    )


def test_what_stands_between_the_markers_is_replaced() -> None:
    once = between(f"a\n{BEGIN}\nold\n{END}\nz", "new")
    assert once == f"a\n{BEGIN}\n\nnew\n\n{END}\nz"
    assert between(once, "new") == once
    with pytest.raises(ValueError, match="no <!-- bench-first-token:begin -->"):
        between("nothing", "new")


def test_the_document_has_the_figures_of_the_stored_run() -> None:
    found = msgspec.json.decode(SHOWN.read_bytes(), type=Found)
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert between(document, table(found)) == document, "python -m bench.first_token --write"
    assert {cell.door for cell in found.cells} == {"/v1/responses", "/v1/chat/completions"}
