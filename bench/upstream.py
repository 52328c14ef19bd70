"""`python -m bench.upstream MS`: a model provider that says the same every time, after so many ms.

It speaks both of OpenAI's dialects, says its port first, and ends when its standard input does.
"""

import asyncio
import json
import sys
from typing import Any, Final

WORDS: Final = ("There", " is", " nothing", " new", " today.")
_USAGE: Final = {
    "input_tokens": 5, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10,
}  # fmt: skip


def _response(status: str, output: list[Any], usage: Any = None) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": "fake",
        "output": output, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto",
        "tools": [], "top_p": 1.0, "usage": usage,
    }  # fmt: skip


def _responses() -> list[dict[str, Any]]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant"}
    text = "".join(WORDS)
    done = {**item, "status": "completed", "content": [{**part, "text": text}]}
    begun = {**item, "status": "in_progress", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress", [])},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *(
            {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
            for word in WORDS
        ),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.completed", "response": _response("completed", [done], _USAGE)},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _chat() -> list[dict[str, Any]]:
    common = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in WORDS]
    chunks: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
    ]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    return [
        *({**common, "choices": [chunk], "usage": None} for chunk in chunks),
        {**common, "choices": [], "usage": usage},
    ]


def _frames(path: str) -> bytes:
    if path.endswith("/chat/completions"):
        return b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in _chat()) + (
            b"data: [DONE]\n\n"
        )
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode())
        for e in _responses()
    )


async def serve(after_s: float) -> None:
    """Serve until standard input ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode("latin-1").lower().split("\r\n")
            length = next((line[15:] for line in lines if line.startswith("content-length:")), "0")
            await reader.readexactly(int(length))
            body = _frames(lines[0].split(" ")[1])
            await asyncio.sleep(after_s)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000))
