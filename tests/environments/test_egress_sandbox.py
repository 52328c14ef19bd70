"""Real commands in a real sandbox, with a pretended internet behind the proxy."""

from pathlib import Path

import pytest

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import InvalidRequest
from perdure.environments.bubblewrap import Bubblewrap
from perdure.environments.local import LocalSandbox
from perdure.ports.sandbox import Ended
from perdure.stores.system import SystemClock
from tests.environments.doubles import bubblewrap, needs_sandbox
from tests.environments.upstream import CANARY, PLACE, PUBLIC, Internet, egress

pytestmark = needs_sandbox()
_PYTHON = "python3 -c 'import urllib.request as u; print(u.urlopen(\"{}\").status)'"

_SEARCH = """python3 - <<'END'
import os, glob
wanted = b"{}" + b"{}"
places = glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline")
for top in ("/workspace", "/tmp", "/etc", "/run", "/dev/shm"):
    places += [os.path.join(at, f) for at, _, files in os.walk(top) for f in files]
assert len(places) > 20
for place in places:
    if os.path.isfile(place) and os.access(place, os.R_OK):
        with open(place, "rb") as file:
            if wanted in file.read():
                print(place)
print("looked")
END
"""


async def opened(
    root: Path, net: Internet, *network: str, hosts: tuple[str, ...] | None = None
) -> LocalSandbox:
    environments = Bubblewrap(root, SystemClock(), egress=egress(net, hosts=hosts))
    spec = EnvironmentSpec(kind="bubblewrap", timeout_s=30.0, network=network)
    return await environments.open("s", spec, "")


def text(ended: Ended) -> str:
    return ended.output.decode("utf-8", "replace")


async def test_programs_reach_what_is_listed_through_the_proxy(tmp_path: Path) -> None:
    async with Internet().up() as net:
        box = await opened(tmp_path / "r", net, "api.test")
        script = "curl -sS http://api.test/one && " + _PYTHON.format("http://api.test/two")
        ended = await box.run(f"{script}; jobs; wait; echo done")
        assert ended.exit_code == 0, text(ended)
        assert "GET /one HTTP/1.1" in text(ended)
        assert text(ended).endswith("200\ndone\n")
        assert net.dialled == [(PUBLIC, 80)] * 2
        assert "3" in text(await box.run("echo $((1 + 2)); curl -sS http://api.test/"))  # each anew


async def test_nothing_else_has_a_way_out(tmp_path: Path) -> None:
    async with Internet().up() as net:
        port = net._ports[False]
        box = await opened(tmp_path / "r", net, "api.test")
        for script in (
            f"curl -sS --noproxy '*' -m 5 http://{PUBLIC}/",
            f"curl -sS --noproxy '*' -m 5 http://127.0.0.1:{port}/",
            "curl -sS --noproxy '*' -m 5 http://api.test/",
            "curl -sSf -m 5 http://api.test:22/",
            "curl -sSf -m 5 http://other.test/",
            "curl -sSf -m 5 https://169.254.169.254/",
            f"curl -sSf -m 5 -x http://127.0.0.1:3128 http://127.0.0.1:{port}/",
            "curl -sSf -m 5 --unix-socket /run/perdure/egress http://other.test/ -x http://x",
            "python3 -c 'import socket; socket.getaddrinfo(\"api.test\", 80)'",
        ):
            ended = await box.run(script)
            assert ended.exit_code not in (0, None), (script, text(ended))
        assert net.dialled == []


async def test_a_directory_of_ones_own_has_the_same_way_out(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    async with Internet().up() as net:
        environments = Bubblewrap(tmp_path / "r", SystemClock(), egress=egress(net))
        spec = EnvironmentSpec(kind="bubblewrap", in_place=True, network=("api.test",))
        box = await environments.open("s", spec, str(project))
        ended = await box.run("curl -sSf http://api.test/ && curl -sSf http://other.test/")
        assert ended.exit_code == 22, text(ended)
        assert net.dialled == [(PUBLIC, 80)]
        assert "reaches listed hosts, through a proxy only" in box.isolation.notes
        assert not list(project.iterdir())


async def test_a_refusal_is_said_below_the_output_once(tmp_path: Path) -> None:
    async with Internet().up() as net:
        box = await opened(tmp_path / "r", net, "api.test")
        seen: list[bytes] = []
        script = (
            "curl -s https://other.test/; curl -s https://other.test/; curl -s http://inner.test"
        )
        first = await box.run(script, on_output=seen.append)
        line = "[egress] other.test:443 is not among what this environment may reach.\n"
        assert text(first).count(line) == 1
        assert b"".join(seen) == first.output
        assert "[egress]" not in text(await box.run(script))


async def test_without_a_network_there_is_no_socket(tmp_path: Path) -> None:
    box = await bubblewrap(tmp_path / "r").open("s", EnvironmentSpec(kind="bubblewrap"), "")
    out = text(
        await box.run("ls /run/perdure; env | grep -ic proxy; curl -s http://127.0.0.1:3128")
    )
    assert "egress" not in out
    assert "forward" not in out
    assert out.endswith("\n0\n")


async def test_the_socket_is_gone_with_the_command(tmp_path: Path) -> None:
    async with Internet().up() as net:
        box = await opened(tmp_path / "r", net, "api.test")
        assert "srw-------" in text(await box.run("ls -l /run/perdure/egress; sleep 99 &"))
        assert not list((tmp_path / "r").rglob("egress/proxy"))


async def test_a_long_path_and_a_killed_owner_s_socket_are_no_matter(tmp_path: Path) -> None:
    async with Internet().up() as net:
        root = tmp_path / ("r" * 120)
        box = await opened(root, net, "api.test")
        left = root / "sessions" / "s" / "egress"
        left.mkdir(parents=True)
        (left / "proxy").touch()
        assert (await box.run("curl -sSf http://api.test/")).exit_code == 0


async def test_a_list_without_clear_meaning_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="E-EGRESS-RULE"):
        await opened(tmp_path / "r", Internet(), "http://api.test/")


async def test_the_secret_arrives_at_its_host_and_is_nowhere_inside(tmp_path: Path) -> None:
    async with Internet().up() as net:
        box = await opened(tmp_path / "r", net, "*", hosts=("api.test",))
        curl = f'export KEY={PLACE}; curl -sS -H "Authorization: Bearer $KEY"'
        for url in ("http://api.test/", "https://api.test/"):
            ended = await box.run(f"{curl} -D - {url}")
            assert ended.exit_code == 0, text(ended)
            assert f"Bearer {CANARY}".encode() in net.heads[-1]
            assert CANARY not in text(ended)
        await box.run(f"{curl} http://other.test/ {PLACE} > answers")
        assert f"Bearer {PLACE}".encode() in net.heads[-1]
        half = len(CANARY) // 2
        search = _SEARCH.format(CANARY[:half], CANARY[half:])  # no process has it in its words
        assert text(await box.run(search)) == "looked\n"
        assert [h for h in net.heads if CANARY.encode() in h] == net.heads[:2]
    for file in (tmp_path / "r").rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()


async def test_python_trusts_the_session_s_authority_too(tmp_path: Path) -> None:
    async with Internet().up() as net:
        box = await opened(tmp_path / "r", net, "api.test", hosts=("api.test",))
        ended = await box.run(_PYTHON.format("https://api.test/"))
        assert text(ended) == "200\n"
