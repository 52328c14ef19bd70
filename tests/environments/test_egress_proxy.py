"""The proxy into a pretended internet: what it connects to, what it passes on, what it refuses."""

import asyncio
import base64

import pytest

from perdure.core.secrets import Secret
from perdure.environments.egress.rules import Rules
from perdure.environments.egress.substitution import Mask, Substitutes, Substitution
from perdure.testing.broken_egress import NamesOnly, NoDot, OneIsEnough
from tests.environments.upstream import CANARY, OTHER, PLACE, PUBLIC, Internet, proxied


async def test_an_allowed_host_is_asked_at_the_address_that_was_checked() -> None:
    async with Internet().up() as net, proxied(net, "api.test") as client:
        answer = await client.get(
            "http://API.test./way?x=1#part", "X-Mine: 1", "Proxy-Connection: x"
        )
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert net.dialled == [(PUBLIC, 80)]
        (head,) = net.heads
        assert head.startswith(b"GET /way?x=1 HTTP/1.1\r\nHost: api.test\r\nX-Mine: 1\r\n")
        assert b"liar" not in head
        assert b"TE: x" not in head


@pytest.mark.parametrize(
    "url",
    ["http://other.test/", "http://xapi.test/", "http://api.test.evil.test/", "http://api.test:8080/",
     "http://inner.test/", "http://mixed.test/", "http://mapped.test/", "http://127.0.0.1/",
     "http://[::1]/", "http://[::ffff:169.254.169.254]/", "http://2130706433/", "http://0x7f.1/",
     "http://0177.0.0.1/", "http://api.test@other.test/", "http://api.test%00.other.test/",
     "http://api.test\\@other.test/", "http://localhost/", "http://metadata/", "http://nothing.test/"],
)  # fmt: skip
async def test_nothing_else_is_connected_to(url: str) -> None:
    said: list[str] = []
    lists = ("api.test", "inner.test", "mixed.test", "mapped.test", "nothing.test")
    async with (
        Internet().up() as net,
        proxied(net, *lists, notice=said.append) as client,
    ):
        for _ in range(2):
            answer = await client.get(url)
            assert answer.startswith(b"HTTP/1.1 403 E-EGRESS-REFUSED"), answer
        assert net.dialled == []
        assert len(said) == 1
        assert [count.refused for count in client.proxy.counts.values()] == [2]


async def test_a_name_is_looked_at_anew_for_each_connection() -> None:
    async with Internet().up() as net, proxied(net, "api.test") as client:
        net.answers["api.test"] = [(PUBLIC,), ("127.0.0.1",), (OTHER,)]
        assert b" 200 " in await client.get("http://api.test/")
        assert b" 403 " in await client.get("http://api.test/")
        assert b" 200 " in await client.get("http://api.test/")
        assert net.dialled == [(PUBLIC, 80), (OTHER, 80)]
        assert net.asked == ["api.test"] * 3  # once for each, and never for a name not on the list
        await client.get("http://other.test/")
        assert net.asked == ["api.test"] * 3


async def test_a_redirect_is_the_clients_business() -> None:
    async with Internet().up() as net, proxied(net, "*") as client:
        assert (await client.get("http://api.test/moved")).startswith(b"HTTP/1.1 302")
        assert net.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "raw",
    [b"GET / HTTP/1.1\r\n\r\n", b"GET https://api.test/ HTTP/1.1\r\n\r\n", b"hello\r\n\r\n",
     b"CONNECT api.test HTTP/1.1\r\n\r\n", b"get http://api.test/ HTTP/1.1\r\n\r\n",
     b"GET http://api.test/ HTTP/2\r\n\r\n", b"GET  http://api.test/ HTTP/1.1\r\n\r\n",
     b"GET http://api.test/ HTTP/1.1\r\nA : b\r\n\r\n",
     b"GET http://api.test/ HTTP/1.1\r\n b\r\n\r\n",
     b"GET http://api.test/ HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
     b"GET http://api.test/ HTTP/1.1\r\nA: \0\r\n\r\n",
     b"GET http://api.test/\0 HTTP/1.1\r\n\r\n", b"GET ftp://api.test/ HTTP/1.1\r\n\r\n",
     b"POST http://api.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
     b"POST http://api.test/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
     b"POST http://api.test/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
     b"POST http://api.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
     b"GET http://api.test/ HTTP/1.1\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n"],
)  # fmt: skip
async def test_what_can_be_read_in_two_ways_is_not_passed_on(raw: bytes) -> None:
    async with Internet().up() as net, proxied(net, "*") as client:
        assert (await client.send(raw)).startswith(b"HTTP/1.1 400 E-EGRESS-REQUEST")
        assert net.dialled == []


async def test_a_body_is_passed_on_and_nothing_behind_it() -> None:
    more = b"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n"
    async with Internet().up() as net, proxied(net, "*") as client:
        head = b"POST http://api.test/ HTTP/1.1\r\n"
        await client.send(head + b"Content-Length: 3\r\n\r\nabc" + more)
        await client.send(
            head + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\n\r\n" + more
        )
        assert net.bodies == [b"abc", b"2\r\nab\r\n0\r\n\r\n"]
        assert net.dialled == [(PUBLIC, 80)] * 2


async def test_a_tunnel_is_end_to_end_and_goes_to_listed_ports_only() -> None:
    async with Internet().up() as net, proxied(net, "api.test", intercept=False) as client:
        said, answer = await client.get_tls("api.test", f"X-Key: {PLACE}")
        assert b" 200 " in said
        assert PLACE.encode() in answer
        for target in (b"api.test:22", b"other.test:443", b"127.0.0.1:443", b"[::1]:443"):
            said = await client.send(b"CONNECT " + target + b" HTTP/1.1\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 403")
        assert net.dialled == [(PUBLIC, 443)]


async def test_what_is_silent_is_ended() -> None:
    async with Internet().up() as net, proxied(net, "*", idle_s=0.05) as client:
        assert await client.send(b"GET http://api.test/ HTTP/1.1\r\n") == b""
        answer = await client.send(b"CONNECT api.test:80 HTTP/1.1\r\n\r\n")
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert net.dialled == [(PUBLIC, 80)]


# -- secrets -------------------------------------------------------------------------------------


async def test_a_secret_is_put_in_for_its_hosts_only_and_taken_out_of_answers() -> None:
    basic = base64.b64encode(f"me:{PLACE}".encode()).decode()
    sent = (f"Authorization: Bearer {PLACE}", f"X-Twice: {PLACE},{PLACE}", "Accept-Encoding: gzip")
    async with Internet().up() as net, proxied(net, "*", hosts=("api.test",)) as client:
        answer = await client.get("http://api.test/", *sent)
        other = await client.get("http://other.test/", *sent)
        packed = await client.get("http://api.test/", f"Authorization: Basic {basic}")
        assert f"Bearer {CANARY}\r\nX-Twice: {CANARY},{CANARY}\r\n".encode() in net.heads[0]
        assert b"Accept-Encoding: identity" in net.heads[0]
        assert CANARY.encode() not in answer + other + net.heads[1]
        assert f"Bearer {'*' * len(CANARY)}".encode() in answer
        assert PLACE.encode() in other
        assert base64.b64encode(f"me:{CANARY}".encode()) in net.heads[2]
        assert base64.b64encode(f"me:{CANARY}".encode()) not in packed


async def test_over_tls_the_secret_is_put_in_by_a_second_connection() -> None:
    async with Internet().up() as net, proxied(net, "*", hosts=("api.test",)) as client:
        said, answer = await client.get_tls("api.test", f"X-Key: {PLACE}")
        assert b" 200 " in said
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert f"X-Key: {CANARY}".encode() in net.heads[0]
        assert CANARY.encode() not in answer
        assert net.dialled == [(PUBLIC, 443)]


async def test_a_server_whose_certificate_is_another_ones_never_gets_the_secret() -> None:
    async with Internet().up("evil.test") as net, proxied(net, "*", hosts=("api.test",)) as client:
        said, _ = await client.get_tls("api.test", f"X-Key: {PLACE}")
        assert said.startswith(b"HTTP/1.1 502 E-EGRESS-UNREACHED api.test is not trusted")
        assert net.heads == []


def test_a_secret_that_would_be_another_header_is_refused() -> None:
    every = (Substitution(PLACE, Secret("a\r\nX-Evil: 1")),)
    with pytest.raises(Exception, match="control characters"):
        Substitutes(every, "api.test", 443).put_in((b"X", PLACE.encode()))


def test_a_mask_finds_a_secret_however_it_is_cut() -> None:
    text = f"aaa{CANARY}bb{CANARY[:5]}{CANARY}{CANARY[:3]}".encode()
    plain = text.replace(CANARY.encode(), b"*" * len(CANARY))
    for size in range(1, len(text)):
        mask = Mask([CANARY.encode()])
        pieces = [mask.feed(text[i : i + size]) for i in range(0, len(text), size)]
        assert b"".join(pieces) + mask.finish() == plain


# -- broken variants -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "host", "answer"),
    [
        (NamesOnly, "api.test", ("169.254.169.254",)),
        (OneIsEnough, "api.test", (PUBLIC, "127.0.0.1")),
        (NoDot, "evilapi.test", (PUBLIC,)),
    ],
)
async def test_broken_rules_would_connect(
    broken: type[Rules], host: str, answer: tuple[str, ...]
) -> None:
    for make, status in ((broken, b" 200 "), (Rules, b" 403 ")):
        async with Internet().up() as net, proxied(net, "api.test", make=make) as client:
            net.answers[host] = [answer]
            assert status in await client.get(f"http://{host}/")
            assert bool(net.dialled) == (make is broken)


async def test_connections_are_bounded_and_end_with_the_command() -> None:
    async with Internet().up() as net, proxied(net, "*") as client:
        waiting = [asyncio.create_task(client.send(b"GET")) for _ in range(64)]
        while len(client.proxy._tasks) < 64:
            await asyncio.wait(waiting, timeout=0.01)
        assert (await client.get("http://api.test/")).startswith(b"HTTP/1.1 503")
        await client.proxy.close()
        assert await asyncio.gather(*waiting) == [b""] * 64
