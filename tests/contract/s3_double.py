"""As much of S3 as blobs need, on this machine, and what can go wrong there."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

REFUSALS: Final = {
    503: ("Service Unavailable", "SlowDown"),
    403: ("Forbidden", "InvalidAccessKeyId"),
    507: ("Insufficient Storage", "XMinioStorageFull"),
    404: ("Not Found", "NoSuchBucket"),
}


class S3Double:
    """One bucket. `refuse` holds the answers to the next requests instead of true ones."""

    def __init__(self, bucket: str = "bucket") -> None:
        self.objects: dict[str, bytes] = {}
        self.at_s: dict[str, float] = {}
        self.now_s = 1_790_000_000.0
        self.refuse: list[int] = []
        self.requests: list[str] = []
        self.authorisations: set[str] = set()
        self._start = f"/{bucket}/"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        while line := await reader.readline():
            method, target, _ = line.decode().split()
            headers: dict[str, str] = {}
            while (each := (await reader.readline()).decode().strip()) != "":
                name, _, value = each.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.authorisations.add(headers.get("authorization", "").partition("/")[0])
            status, reason, content, more = self._do(method, target, body)
            head = f"HTTP/1.1 {status} {reason}\r\ncontent-length: {len(content)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(head.encode() + b"\r\n" + (b"" if method == "HEAD" else content))
            await writer.drain()

    def _do(self, method: str, target: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        parts = urlsplit(target)
        path = unquote(parts.path)
        key = path.removeprefix(self._start)
        self.requests.append(f"{method} {key}")
        if self.refuse:
            status = self.refuse.pop(0)
            reason, code = REFUSALS[status]
            xml = f"<Error><Code>{code}</Code><Message>{reason}</Message></Error>"
            return status, reason, xml.encode(), {}
        query = parse_qs(parts.query, keep_blank_values=True)
        match method:
            case "GET" if "list-type" in query:
                return 200, "OK", self._listing(query.get("prefix", [""])[0]), {}
            case "PUT":
                self.objects[key] = body
                self.at_s[key] = self.now_s
                return 200, "OK", b"", {"etag": self._etag(key)}
            case "POST" if "delete" in query:
                keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
                for each in keys:
                    self.objects.pop(each, None)
                found = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in keys)
                return 200, "OK", f"<DeleteResult>{found}</DeleteResult>".encode(), {}
            case "GET" | "HEAD" if key in self.objects:
                when = formatdate(self.at_s[key], usegmt=True)
                return (
                    200,
                    "OK",
                    self.objects[key],
                    {"etag": self._etag(key), "last-modified": when},
                )
        return 404, "Not Found", b"<Error><Code>NoSuchKey</Code></Error>", {}

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()}"'

    def _listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            f"<LastModified>2026-09-21T14:13:20.000Z</LastModified><ETag>x</ETag></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )


@asynccontextmanager
async def s3_double() -> AsyncIterator[tuple[S3Double, str]]:
    """Serve a double; yield it and its address."""
    double = S3Double()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await double.answer(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield double, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in writers), return_exceptions=True)
