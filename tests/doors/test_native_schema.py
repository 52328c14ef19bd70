"""The native protocol's description against the server it describes: examples made from it."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from perdure import Agent
from perdure.doors.native.face import OPERATIONS, PREFIX
from perdure.doors.native.manual import document
from tests.doors.serving import Reply, script, up

HELPER = Agent("helper", "test:talk")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """A server in a thread of its own, with a session, and a key for it."""
    ready: queue.Queue[tuple[str, str] | BaseException] = queue.Queue()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with up({"talk": script(Reply(text="Hello."))}, agents=[HELPER]) as server:
            ready.put((server.url, await server.key(role="admin")))
            await over.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001
            ready.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    found = ready.get(timeout=30)
    assert isinstance(found, tuple), found
    yield found
    loop.call_soon_threadsafe(over.set)
    thread.join(timeout=30)


@schemathesis.serializer("application/x-ndjson")
def lines(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


described = schemathesis.openapi.from_dict(document(OPERATIONS, PREFIX, "0"))


@described.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_each_endpoint_answers_as_it_is_described(
    case: schemathesis.Case[Any], served: tuple[str, str]
) -> None:
    url, key = served
    headers = {"authorization": f"Bearer {key}"}
    case.call_and_validate(base_url=url, headers=headers, checks=CHECKS, timeout=40)


def test_the_description_is_one() -> None:
    described.validate()
