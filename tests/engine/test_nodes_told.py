"""What is said about nodes: nothing is promised of the dead, or of others that are not there."""

import pytest

from perdure.core.errors import Conflict, NotFound
from perdure.engine.nodes import after_draining, ensure_alive, meant
from perdure.ports.cluster import NodeRow

LIVES, DEAD, ALSO = NodeRow("ab1"), NodeRow("ab2", alive=False), NodeRow("ab3", alive=False)
LEAVES = NodeRow("b1", draining=True)


def test_a_beginning_means_the_living() -> None:
    assert meant([LIVES, DEAD, ALSO], "ab") == "ab1"
    assert meant([LIVES, DEAD, ALSO], "ab2") == "ab2", "a whole name is what it is"
    assert meant([DEAD, LEAVES], "a") == "ab2", "no living one begins like that"
    with pytest.raises(NotFound, match="2 nodes begin with 'ab': ab2, ab3"):
        meant([DEAD, ALSO, LEAVES], "ab")
    for nobody in ("", "c"):
        with pytest.raises(NotFound, match="There is no node"):
            meant([LIVES], nobody)


def test_who_is_dead_is_told_nothing() -> None:
    ensure_alive([LIVES, DEAD], "ab1")
    with pytest.raises(Conflict, match=r"dead already.*goes on at the other nodes") as caught:
        ensure_alive([LIVES, DEAD], "ab2")
    assert caught.value.code == "E-NODE-DEAD"
    with pytest.raises(Conflict, match="no other node is alive"):
        ensure_alive([LEAVES, DEAD, ALSO], "ab2")


def test_other_nodes_are_named_only_where_there_are_some() -> None:
    assert "goes on at the other nodes" in after_draining([LIVES, LEAVES], "b1")
    assert "no other node is alive" in after_draining([LIVES, LEAVES, DEAD], "ab1")
