"""The systems that are measured, and what each does and does not do for a step."""

from typing import Final, Literal

import msgspec

Server = Literal["", "postgres", "restate"]


class System(msgspec.Struct, frozen=True):
    """One row of the table. `module` is a file of bench/peers/runners.

    `ours` run in Perdure's environment, the others in the peers'. `ahead`: the next step begins
    before the one before it is on the disk, so that steps which were only begun tell nothing.
    `grows_as`: it stores the same bytes as that other one, which is measured for both.
    """

    name: str
    label: str
    module: str
    does: str
    arguments: tuple[str, ...] = ()
    server: Server = ""
    ours: bool = False
    ahead: bool = False
    grows_as: str = ""


BASE: Final = "perdure-sqlite"

_LANGGRAPH: Final = (
    "A checkpoint of the whole state (all messages so far) for each step, and the step's writes "
    "beside it. The program calls `ainvoke(None, …)` again after a crash; nothing looks for "
    "interrupted threads. {when}"
)
_SYNC: Final = '`durability="sync"`: the next step waits for the checkpoint.'
_ASYNC: Final = (
    "As it comes (`async`): the next steps run while checkpoints are still to be written."
)

SYSTEMS: Final = (
    System(
        BASE,
        "Perdure, SQLite",
        "perdure",
        "As it comes. A model's reply is journaled; a tool's call before it is made, its result "
        "after it (`@tool` alone is a `once` tool: a call that may have happened is never made "
        "twice). Events are hash-chained; a follower can read each. Commits wait for the disk.",
        arguments=("once",),
        ours=True,
    ),
    System(
        "perdure-sqlite-read",
        "Perdure, SQLite, `read` tool",
        "perdure",
        "The same with `@tool(effect=\"read\")`, which may be called again after a crash: the "
        "model is called while the tool's result is still being written.",
        arguments=("read",),
        ours=True,
        ahead=True,
    ),
    System(
        "perdure-postgres",
        "Perdure, PostgreSQL",
        "perdure",
        "As on SQLite, in tables of PostgreSQL; one connection writes for all sessions. A dead "
        "node's sessions are taken over as `perdure work` does it: when its lease (5 s) has run "
        "out, looked for every 2 s.",
        arguments=("once",),
        server="postgres",
        ours=True,
    ),
    System(
        "dbos-sqlite",
        "DBOS, SQLite",
        "dbos",
        "The result of each `@DBOS.step` is stored after it ran; a step in flight runs again. "
        "Takes up its workflows when it is launched again.",
    ),
    System(
        "dbos-postgres",
        "DBOS, PostgreSQL",
        "dbos",
        "The same on PostgreSQL.",
        server="postgres",
    ),
    System(
        "langgraph-sqlite",
        "LangGraph, SQLite",
        "langgraph",
        _LANGGRAPH.format(when=_ASYNC),
        ahead=True,
        grows_as="langgraph-sqlite-sync",
    ),
    System(
        "langgraph-sqlite-sync",
        "LangGraph, SQLite, sync",
        "langgraph",
        "The same with " + _SYNC,
        arguments=("sync",),
    ),
    System(
        "langgraph-postgres",
        "LangGraph, PostgreSQL",
        "langgraph",
        "As on SQLite, with a pool of 20 connections. " + _ASYNC,
        server="postgres",
        ahead=True,
        grows_as="langgraph-postgres-sync",
    ),
    System(
        "langgraph-postgres-sync",
        "LangGraph, PostgreSQL, sync",
        "langgraph",
        "The same with " + _SYNC,
        arguments=("sync",),
        server="postgres",
    ),
    System(
        "absurd",
        "Absurd, PostgreSQL",
        "absurd",
        "The result of each `ctx.step` is stored after it ran; a step in flight runs again. One "
        "`AsyncAbsurd` worker on one connection, `concurrency` as many as there are sessions. "
        "`claim_timeout` is 5 s, which bounds how soon a dead worker's task is taken up (its "
        "default of 120 s would make that two minutes).",
        server="postgres",
    ),
    System(
        "openai-agents",
        "openai-agents, SQLiteSession",
        "openai_agents",
        "History only: the items of a turn (a reply and its tool's result) are added after the "
        "turn. No journal of calls, no deduplication; after a crash the program calls the runner "
        "again with something new to say.",
    ),
    System(
        "restate",
        "Restate",
        "restate",
        "The result of each `ctx.run_typed` is journaled in its server, one node with its default "
        "settings; a step in flight runs again. Only the service was killed, and started again on "
        "the same port; the server's retry finds it.",
        server="restate",
    ),
)  # fmt: skip
