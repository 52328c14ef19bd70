"""Lists in OpenAI's form: pages by cursor, forwards or backwards."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.responses import Response

from perdure.doors import replies
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
T = TypeVar("T")

_BATCH = 200


def cursor(call: Call, order: str = "desc") -> tuple[str, int, bool]:
    """Return where a page begins, how long it is, and whether it goes forwards.

    Raises `Wording` (400), `InvalidRequest` (E-QUERY).
    """
    wanted = call.query.get("order") or order
    if wanted not in ("asc", "desc"):
        raise Wording(400, "order is asc or desc.", param="order")
    return call.query.get("after", ""), call.number("limit", 20, most=100), wanted == "asc"


def page(items: Sequence[Json], *, has_more: bool) -> Response:
    """Return one page. Every item has an `id`."""
    return replies.Json(
        {
            "object": "list",
            "data": list(items),
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": has_more,
        }
    )


def paged(items: Sequence[Json], call: Call, order: str = "desc") -> Response:
    """Return the page that a call asks for of `items`, which are in the order they were made."""
    after, limit, forwards = cursor(call, order)
    found = list(items) if forwards else list(reversed(items))
    if after:
        ids = [item["id"] for item in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    return page(found[:limit], has_more=len(found) > limit)


async def documents(
    docs: Documents[T],
    call: Call,
    name: Callable[[T], str],
    fits: Callable[[T], bool] = lambda _: True,
    order: str = "desc",
) -> tuple[list[T], bool]:
    """Return the page of documents that a call asks for, and whether there are more.

    `name` gives a document's name. Backwards all before the page are read, though never kept.
    """
    after, limit, forwards = cursor(call, order)
    if not forwards:
        window: deque[T] = deque(maxlen=limit + 1)
        async for each, value in docs.each():
            if after and each >= after:
                break
            if fits(value):
                window.append(value)
        found = list(reversed(window))
        return found[:limit], len(found) > limit
    found = []
    while len(found) <= limit:
        batch = await docs.page(after=after, limit=_BATCH)
        found += [value for value in batch if fits(value)]
        if len(batch) < _BATCH:
            break
        after = name(batch[-1])
    return found[:limit], len(found) > limit
