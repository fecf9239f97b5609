"""A castd whose standard error is a pipe that nobody reads: clients do not notice."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.support.jobs import eventually
from tests.support.lab.castd import SECONDS, TREE, Peer, command, listening, served
from tests.support.world import free

pytestmark = pytest.mark.e2e

#: With a name of so many octets each line is long, so that few are needed to fill the pipe.
NAME = "/".join(["d" * 220] * 4)
ROUNDS, AT_ONCE = 40, 50


def fetch(port: int, peers: int) -> float:
    """Read the file by so many clients at once.  -> seconds until all have it."""
    began = time.monotonic()
    asking = [Peer(port, NAME) for _ in range(peers)]
    served(asking, 20)
    assert {bytes(peer.data) for peer in asking} == {b"content"}
    return time.monotonic() - began


def test_nobodyReads(tmp_path: Path) -> None:
    """Long after the pipe is full everybody is served in time; who reads it then learns how many lines were lost."""
    file = tmp_path / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(b"content")
    (port,) = free(1)
    conf = tmp_path / "castd.yaml"
    service = {
        "castd": 1,
        "access": [{"allow": "any"}],
        "limits": {"new-per-peer": "10000/s"},
        "content": [{"directory": {"path": str(tmp_path)}}],
        "transports": {"tftp": {"port": port, "interface": "127.0.0.1"}},
    }
    conf.write_text(yaml.safe_dump(service))
    with subprocess.Popen([*command(), "serve", "-c", str(conf)], stderr=subprocess.PIPE, cwd=TREE) as castd:
        try:
            eventually(lambda: ("127.0.0.1", port) in listening(castd.pid), "castd to listen", SECONDS)
            slowest = max(fetch(port, AT_ONCE) for _ in range(ROUNDS))
            assert slowest < 10
            assert castd.stderr is not None
            log = os.read(castd.stderr.fileno(), 1 << 22)
            fetch(port, 1)
        finally:
            castd.terminate()
        log += castd.stderr.read()
        assert castd.wait(20) == 0
    lines = log.decode().splitlines()
    assert all(line.startswith("20") for line in lines), "no line is torn"
    complete = sum("complete" in line for line in lines)
    told = [line.partition("] ")[2].partition(" ") for line in lines if "before this one were lost" in line]
    lost = sum(int(number) for number, _, _ in told)
    assert lost > 100
    assert complete + lost == ROUNDS * AT_ONCE + 1
