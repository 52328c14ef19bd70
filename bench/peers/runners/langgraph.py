"""LangGraph: a graph of a model node and a tool node over messages, with a checkpointer."""

import asyncio
import importlib.metadata
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from bench.peers.recorder import Recorder
from bench.peers.serve import serve

_POOL = 20


class LangGraph:
    """See `System`. `durability` is that of `ainvoke`; empty for what it does by itself."""

    def __init__(self, durability: str) -> None:
        self._how = {"durability": durability} if durability else {}
        self._stack = AsyncExitStack()
        self._steps = sys.maxsize

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`."""
        saver = await self._saver(folder, url)
        await saver.setup()

        async def model(state: Any) -> dict[str, Any]:
            messages = state["messages"]
            index = len(messages) - 1
            if index >= self._steps:
                return {"messages": [AIMessage("done")]}
            text = await recorder.step(messages[0].content, index)
            call = {"name": "look", "args": {"number": index + 1}, "id": f"c{index}"}
            return {"messages": [AIMessage(text, tool_calls=[call])]}

        async def look(state: Any) -> dict[str, Any]:
            messages = state["messages"]
            call = messages[-1].tool_calls[0]
            text = await recorder.step(messages[0].content, call["args"]["number"])
            return {"messages": [ToolMessage(text, tool_call_id=call["id"])]}

        def after_model(state: Any) -> str:
            return "look" if state["messages"][-1].tool_calls else END

        builder = StateGraph(MessagesState)
        builder.add_node("model", model)
        builder.add_node("look", look)
        builder.add_edge(START, "model")
        builder.add_conditional_edges("model", after_model, ["look", END])
        builder.add_edge("look", "model")
        self._graph = builder.compile(checkpointer=saver)
        kind = "postgres" if url else "sqlite"
        names = ("langgraph", f"langgraph-checkpoint-{kind}")
        return {name: importlib.metadata.version(name) for name in names}

    async def _saver(self, folder: Path, url: str) -> Any:
        if not url:
            path = str(folder / "checkpoints.sqlite")
            return await self._stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
        settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool: Any = AsyncConnectionPool(url, max_size=_POOL, kwargs=settings, open=False)
        return AsyncPostgresSaver(await self._stack.enter_async_context(pool))

    def _config(self, name: str) -> dict[str, Any]:
        return {"configurable": {"thread_id": name}, "recursion_limit": 1_000_000}

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        self._steps = steps
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            await asyncio.gather(*(self._session(name) for name in some))

    async def _session(self, name: str) -> None:
        given = {"messages": [HumanMessage(name)]}
        await self._graph.ainvoke(given, self._config(name), **self._how)

    async def resume(self, name: str) -> None:
        """See `System.resume`."""
        await self._graph.ainvoke(None, self._config(name), **self._how)

    async def close(self) -> None:
        """See `System.close`."""
        await self._stack.aclose()


if __name__ == "__main__":
    serve(LangGraph(sys.argv[1] if len(sys.argv) > 1 else ""))
