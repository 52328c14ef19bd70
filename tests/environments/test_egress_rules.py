"""Where commands may connect to: each spelling of a host has one reading, or is refused."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from perdure.core.addresses import is_public
from perdure.core.errors import InvalidRequest
from perdure.environments.egress.rules import Refused, Rules, plain_host, split_authority
from perdure.testing.broken_egress import AnyPort, NamesOnly, NoDot, OneIsEnough


def words(text: str) -> list[str]:
    return text.split()


PRIVATE = words("""
127.0.0.1 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.0.1 172.16.0.1
172.31.255.1 192.168.0.1 192.168.255.255 169.254.169.254 169.254.170.2 169.254.0.1
100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.7
203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1 fe80::1
fe80::1%eth0 fec0::1 fc00::1 fd00:ec2::254 fd12:3456::1 ff02::1 ff05::2 ::ffff:127.0.0.1
::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:7f00:1 0:0:0:0:0:ffff:a9fe:a9fe
::127.0.0.1 ::7f00:1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::
2002:a9fe:a9fe:: 2002:c0a8:1:: 2001:0:53aa:64c::1 2001:db8::1 100::1 5f00::1 4000::1
1::1
""")

SPELLINGS = words("""
2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 0177.1 017700000001 127.1 127.0.1
127.0.0.01 127.0.0.1.1 127.0.0.256 256.256.256.256 1.2.3 1.2 1 0 00 0x 0x0 0xa9fea9fe
2852039166 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 169.254.43518 169.16689662 010.0.0.1
10.0.0.0x1 1.1.1.08 1e3.1 -1 +1 1.1.1.1/8 1.1.1.1:80 ①②⑦.⓪.⓪.① 127。0。0。1.5 １２７.1 １.1.1.1
٠.٠.٠.1 api..test .api.test api.test.. . .. ... -api.test api-.test api.-test.com a_.-b
api.test%00 api.test%2e api.test/x /api.test api.test\\x api.test?x api.test#x
user@api.test user:pw@api.test @api.test api.test@evil.test api,test api;test api|test
api'test api"test api`test api$test api(test) api{test} api<test> api^test api~test
api!test api*test *.test * api+test api=test api&test [::1 ::1] [] [[::1]] [::1]x
[127.0.0.1] [api.test] [::1%25eth0] [::1%eth0] [fe80::1%1] [:::] [1:2:3]
[::ffff:999.0.0.1] [12345::] [0x7f::1] ::1 fe80::1 a:b a:b:c api.test:80:80 xn--
xn--\u00fc.test \u00fc\u0000.test api\u200b.test\u202e api\u2215test api\uff0ftest
api\uff20evil.test api\uff1a80 \ud800.test
""")

ODD = [
    "", " ", "\0", "api.test\0", "\0api.test", "api\0.test", "api.test\0.evil.test", "api test",
    " api.test", "api.test ", "api.test\n", "api.test\r", "\tapi.test", "api.test\r\nHost: evil",
    "api.test\x7f", "api\x01.test", "api.test\x85", "api\u00a0test", "api.test\u2028", "a" * 64,
    "a" * 64 + ".test", ".".join(["a" * 60] * 5), "a." * 130 + "a", "[::1]\0", "[::1 ]", "[ ::1]",
    "[::1]\n", "127.0.0.1\0", "127.0.0.1\n", "127.0.0.1 ", " 127.0.0.1", "1 27.0.0.1",
]  # fmt: skip

REFUSED = [*SPELLINGS, *ODD]


def reached(make: Callable[..., Rules], host: str, found: list[str], port: int = 443) -> list[str]:
    rules = make(("api.test", "*.below.test"))
    try:
        name, named = split_authority(host)
        rules.check_name(name, named or port)
        return rules.check_addresses(name, named or port, found)
    except Refused:
        return []


def test_there_are_enough_of_them() -> None:
    assert len(set(REFUSED) | set(PRIVATE)) >= 180


@pytest.mark.parametrize("text", sorted(set(REFUSED)))
def test_a_host_with_several_readings_or_none_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        plain_host(text)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused_however_it_comes(address: str) -> None:
    assert not is_public(address)
    for list_ in (("*",), ("api.test",), ("*", "!evil.test"), ("0.0.0.0/0", "::/0", "*")):
        rules = Rules(list_)
        for found in ([address], ["93.184.216.34", address], [address, "93.184.216.34"]):
            with pytest.raises(Refused):
                rules.check_addresses("api.test", 443, found)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("API.Test", "api.test"),
        ("api.test.", "api.test"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER。example", "xn--bcher-kva.example"),
        ("ａｐｉ.test", "api.test"),
        ("1.1.1.1", "1.1.1.1"),
        ("1.1.1.1.", "1.1.1.1"),
        ("[2606:4700:0::1111]", "2606:4700::1111"),
        ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ("_dmarc.api.test", "_dmarc.api.test"),
    ],
)
def test_one_spelling(text: str, plain: str) -> None:
    assert plain_host(text) == plain
    assert plain_host(f"[{plain}]" if ":" in plain else plain) == plain


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("api.test", "api.test", 443, True),
        ("api.test", "api.test", 80, True),
        ("api.test", "api.test", 8080, False),
        ("api.test", "x.api.test", 443, False),
        ("api.test:8080", "api.test", 8080, True),
        ("api.test:8080", "api.test", 443, False),
        ("*.api.test", "x.api.test", 443, True),
        ("*.api.test", "y.x.api.test", 443, True),
        ("*.api.test", "api.test", 443, False),
        ("*.api.test", "xapi.test", 443, False),
        ("*.api.test", "x.api.test.evil.test", 443, False),
        ("Bücher.example", "xn--bcher-kva.example", 443, True),
        ("*", "any.test", 443, True),
        ("*", "any.test", 22, False),
        ("*:22", "any.test", 22, True),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8:8080", "10.1.2.3", 8080, True),
        ("10.0.0.0/8:8080", "10.1.2.3", 80, False),
        ("10.0.0.5", "10.0.0.6", 80, False),
        ("[fd00::5]:81", "fd00::5", 81, True),
        ("fd00::/8", "fd00::5", 80, True),
        ("[fd00::]/8:81", "fd00::5", 81, True),
    ],
)
def test_patterns(pattern: str, host: str, port: int, allowed: bool) -> None:
    rules = Rules((pattern,))
    if allowed:
        rules.check_name(host, port)
        return
    with pytest.raises(Refused):
        rules.check_name(host, port)


def test_an_exception_holds_below_it_at_all_ports_and_for_its_bare_addresses() -> None:
    rules = Rules(("*", "*:8080", "!evil.test", "!93.184.216.0/24"))
    rules.check_name("good.test", 8080)
    for host in ("evil.test", "x.evil.test", "93.184.216.34", "1.1.1.1"):
        with pytest.raises(Refused):
            rules.check_name(host, 443)
    with pytest.raises(Refused):
        rules.check_addresses("good.test", 443, ["93.184.216.34"])
    rules.check_name("notevil.test", 443)


def test_private_addresses_are_opened_by_listing_them_and_not_by_a_client() -> None:
    listed = ("db.test", "10.0.0.0/8")
    assert Rules(listed).check_addresses("db.test", 443, ["10.0.0.7"]) == ["10.0.0.7"]
    with pytest.raises(Refused):
        Rules(listed).check_addresses("db.test", 5432, ["10.0.0.7"])
    with pytest.raises(Refused):
        Rules(listed, trusted=False).check_addresses("10.0.0.7", 443, ["10.0.0.7"])
    operator = Rules(listed, trusted=False, private=("db.*",))
    assert operator.check_addresses("db.test", 443, ["10.0.0.7"]) == ["10.0.0.7"]


@pytest.mark.parametrize(
    "pattern",
    ["", "!", "!*", "*.", "*.*.test", "a b", "api.test:0", "api.test:99999", "10.0.0.1/8",
     "api.test/8", "*.10.0.0.1", "http://api.test", "api.test:80:80", "10.0.0.0/33",
     "0x7f.1", "*api.test",
     "a\0b"],
)  # fmt: skip
def test_an_entry_without_clear_meaning_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="E-EGRESS-RULE"):
        Rules((pattern,))


@given(st.text(max_size=40))
def test_whatever_is_taken_for_a_host_stays_itself(text: str) -> None:
    try:
        plain = plain_host(text)
    except Refused:
        return
    assert plain_host(f"[{plain}]" if ":" in plain else plain) == plain
    assert plain.isascii()
    assert not set(plain) & set("\0 \r\n\t/\\@?#%[]*")


@given(st.ip_addresses())
def test_no_address_of_a_private_network_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast:
        assert not is_public(str(address))


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(number: int) -> None:
    inner = ipaddress.IPv4Address(number)
    assert is_public(f"::ffff:{inner}") == is_public(str(inner))
    assert not is_public(f"64:ff9b::{inner}")


@pytest.mark.parametrize(
    ("broken", "host", "found", "port"),
    [
        (NamesOnly, "api.test", ["169.254.169.254"], 443),
        (OneIsEnough, "api.test", ["93.184.216.34", "127.0.0.1"], 443),
        (NoDot, "evilapi.test", ["93.184.216.34"], 443),
        (NoDot, "evilbelow.test", ["93.184.216.34"], 443),
        (AnyPort, "api.test", ["93.184.216.34"], 22),
    ],
)
def test_broken_rules_are_caught(
    broken: type[Rules], host: str, found: list[str], port: int
) -> None:
    assert reached(broken, host, found, port)
    assert not reached(Rules, host, found, port)
