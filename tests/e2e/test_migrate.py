"""What `castd import` makes of a configuration serves, name by name, what the server serves that it was written for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobs import Job, eventually
from tests.support.lab.castd import command
from tests.support.lab.hall import Hall, Host, sweep
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SERVER, CLIENT = "192.168.10.1", "192.168.10.2"
CORPUS = Path(__file__).parents[1] / "migrate"
CASES = [
    pytest.param(case, id=path.stem)
    for path in sorted(CORPUS.glob("*.yaml"))
    if "compare" in (case := yaml.safe_load(path.read_text()))
]

_HPA = "in.tftpd --foreground --user $TFTP_USERNAME --address $TFTP_ADDRESS $TFTP_OPTIONS $TFTP_DIRECTORY"
#: How each server is started with its configuration, as its package does it, but in the foreground.
STARTS = {
    "tftpd-hpa": ("in.tftpd", f". /etc/default/tftpd-hpa; exec {_HPA}"),
    "atftpd": ("atftpd", ". /etc/default/atftpd; exec atftpd --daemon --no-fork $OPTIONS"),
    "dnsmasq": ("dnsmasq", "exec dnsmasq --keep-in-foreground --user=nobody --pid-file --log-facility=-"),
}

#: Puts directories of a folder over those of this machine, for itself alone, and becomes a command.
WITHIN = """
set -e
mount --make-rprivate /
mount -t overlay -o lowerdir=$1/etc:/etc overlay /etc
mount --bind $1/srv /srv
shift
exec "$@"
"""

#: Asks for each name, without options: prints the octets of the file in hexadecimal, "error" or "silence".
ASK = """
import json, socket, sys
def ask(name):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1)
    request = b"\\0\\1" + name.encode() + b"\\0octet\\0"
    for _ in range(5):
        sock.sendto(request, (sys.argv[1], 69))
        got, wanted = b"", 1
        try:
            while True:
                data, peer = sock.recvfrom(2000)
                if data[:2] == b"\\0\\5":
                    return "error"
                if data[:4] == b"\\0\\3" + wanted.to_bytes(2, "big"):
                    sock.sendto(b"\\0\\4" + data[2:4], peer)
                    got, wanted = got + data[4:], wanted + 1
                    if len(data) < 516:
                        return got.hex()
        except TimeoutError:
            pass
    return "silence"
print(json.dumps([ask(name) for name in json.loads(sys.argv[2])]))
"""

#: Stores a file of its own name under each name, without options: prints whether it was taken.
STORE = """
import json, socket, sys
def store(name):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1)
    said = b"\\0\\2" + name.encode() + b"\\0octet\\0"
    to, wanted = (sys.argv[1], 69), 0
    for _ in range(5):
        try:
            sock.sendto(said, to)
            while True:
                data, peer = sock.recvfrom(2000)
                if data[:2] == b"\\0\\5":
                    return "error"
                if data[:4] == b"\\0\\4" + wanted.to_bytes(2, "big"):
                    if wanted:
                        return "stored"
                    said, to, wanted = b"\\0\\3\\0\\1" + name.encode(), peer, 1
                    sock.sendto(said, to)
        except TimeoutError:
            pass
    return "silence"
print(json.dumps([store(name) for name in json.loads(sys.argv[2])]))
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """A server and a client on one switch."""
    needNamespaces()
    need("ip", "bridge", "setpriv", "unshare")
    sweep()
    with Hall(tmp_path_factory.mktemp("hall")) as hall:
        yield hall.host("server", SERVER), hall.host("client", CLIENT)


def forClient(case: dict[str, Any], client: Host) -> dict[str, Any]:
    """Return a case with the hardware address of the client where its file says CLIENT-MAC."""
    text = json.dumps(case).replace("CLIENT-MAC", client.mac.replace(":", "-"))
    found: dict[str, Any] = json.loads(text)
    return found


def furnished(case: dict[str, Any], root: Path) -> Path:
    """Write the configuration and the files of a case beneath a folder."""
    for name in ("etc", "srv"):
        (root / name).mkdir()
    for path, text in case["files"].items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for path in case["compare"]["tree"]:
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        # Two blocks, of which the second tells that it is the right file.
        place.write_bytes(b"%-520s" % path.encode())
        place.chmod(0o600 if path in case["compare"].get("private", ()) else 0o644)
    for path in case["compare"].get("folders", ()):
        (root / path.lstrip("/")).mkdir()
    if "stores" in case["compare"]:
        # The server's user stores there.
        for place in (root / "srv").rglob("*"):
            place.chmod(0o777 if place.is_dir() else 0o666)
    root.chmod(0o755)
    return root


@contextmanager
def running(host: Host, root: Path, words: list[str]) -> Iterator[Job]:
    """Run a command with the directories of a case over those of this machine."""
    job = host.start(["unshare", "--mount", "sh", "-c", WITHIN, "sh", str(root), *words])
    try:
        yield job
    finally:
        job.end()


def outcomes(client: Host, script: str, names: list[str]) -> dict[str, str]:
    """Ask for each name, or store something there, one after the other."""
    asked = client.run([sys.executable, "-c", script, SERVER, json.dumps(names)], 120)
    assert asked.code == 0, asked.text
    return dict(zip(names, json.loads(asked.text), strict=True))


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a server, with what is in them."""
    folder = root / "srv"
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def served(
    host: Host, client: Host, root: Path, words: list[str], names: list[str], stores: list[str]
) -> tuple[dict[str, str], dict[str, bytes]]:
    """
    Run a server.

    @return: what it has for each name; and the files that clients have stored there, which are taken away again.
    """
    with running(host, root, words) as job:
        eventually(lambda: ":69 " in host.run(["ss", "-Hlun"]).text, "a server at port 69", 20)
        found = outcomes(client, ASK, names)
        before = contents(root)
        found |= {f"store {name}": said for name, said in outcomes(client, STORE, stores).items()}
        assert job.process.poll() is None, job.text()
    stored = dict(contents(root).items() - before.items())
    for name in stored:
        assert name not in before
        (root / "srv" / name).unlink()
    eventually(lambda: ":69 " not in host.run(["ss", "-Hlun"]).text, "the end of the server", 10)
    return found, stored


@pytest.mark.parametrize("case", CASES)
def test_sameNames(hosts: tuple[Host, Host], case: dict[str, Any], tmp_path: Path) -> None:
    """Each name gives the same file, or an ERROR, by both; but for those that the case tells to differ, and why."""
    program, start = STARTS[case["server"]]
    need(program, "ss")
    host, client = hosts
    case = forClient(case, client)
    root = furnished(case, tmp_path)
    names, differs = case["compare"]["names"], set(case["compare"].get("differs", ()))
    stores = case["compare"].get("stores", [])
    old, stored = served(host, client, root, ["sh", "-c", start], names, stores)

    with running(host, root, [*command(), "import", case["server"]]) as job:
        done = job.finish(30)
    text = done.text[done.text.index("castd: 1") :]
    file = tmp_path / "castd.yaml"
    file.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("/etc/")))
    new, same = served(host, client, root, [*command(), "serve", str(file)], names, stores)

    assert any(len(each) > 1000 for each in old.values()), old
    assert {name for name in old if old[name] != new[name]} == differs, {
        name: (old[name][-80:], new[name][-80:]) for name in old if old[name] != new[name]
    }
    assert bool(stored) is bool(stores)
    assert same == stored
