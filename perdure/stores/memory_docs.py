"""The documents of a `MemoryDisk`."""

from perdure.ports.store import Doc
from perdure.stores import refusals
from perdure.stores.keys import packed


class Docs:
    """Documents by kind and name. One that was deleted keeps its version, without data."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[int, bytes | None]] = {}

    def put(self, kind: str, name: str, data: bytes, expect: int | None) -> int:
        """See `Store.put_doc`."""
        version, before = self.kept.get((kind, name), (0, None))
        there = 0 if before is None else version
        if expect is not None and expect != there:
            raise refusals.doc_changed(kind, name, expect, there)
        self.kept[kind, name] = (version + 1, data)
        return version + 1

    def of(self, kind: str, prefix: str, after: str, limit: int | None) -> list[Doc]:
        """See `Store.docs`."""
        found = [
            Doc(name, version, data)
            for (each, name), (version, data) in self.kept.items()
            if each == kind and data is not None and packed(name).startswith(packed(prefix))
        ]
        found.sort(key=lambda doc: packed(doc.name))
        return [doc for doc in found if not after or packed(doc.name) > packed(after)][:limit]

    def one(self, kind: str, name: str) -> Doc | None:
        """See `Store.doc`."""
        version, data = self.kept.get((kind, name), (0, None))
        return None if data is None else Doc(name, version, data)

    def delete(self, kind: str, name: str) -> None:
        """See `Store.delete_doc`."""
        if (kind, name) in self.kept:
            self.kept[kind, name] = (self.kept[kind, name][0], None)
