"""
How a proxydhcp shares port 67 with a DHCP server on the same machine: the kernel's part, in a network namespace.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.needs import need, needNamespaces, run

pytestmark = [pytest.mark.root, pytest.mark.loopback]

TREE = Path(__file__).parents[2]
#: Two interfaces, 10.66.0.2 and 10.88.0.2; broadcasts that are sent by one are also heard by sockets at it.
NETWORK = """
import json, socket, subprocess, sys
sys.path.insert(0, {tree!r})
from castd.net import devices, sockets
for name, host in (("d1", "10.66.0.2"), ("d2", "10.88.0.2")):
    # What comes in at the other end is dropped, since its source is an address of this machine.
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "far" + name], check=True)
    subprocess.run(["ip", "link", "set", "far" + name, "up"], check=True)
    subprocess.run(["ip", "addr", "add", host + "/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
subprocess.run(["ip", "addr", "add", "10.66.0.3/24", "dev", "d1"], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

def server(reuse):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    made.bind(("0.0.0.0", 67))
    return made

def client(device):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return made

def heard(sock):
    found = []
    sock.settimeout(0.2)
    try:
        while True:
            found.append(sock.recv(2000).decode())
    except (TimeoutError, BlockingIOError):
        return found

def opened(place, port=67):
    made = sockets.bindSocket(place, port)
    sockets.setRequestOptions(made)
    return made

"""


def inNamespace(script: str) -> object:
    """Run a script in a network namespace of its own.  -> what it prints, as JSON."""
    needNamespaces()
    need("ip", "unshare")
    done = run("unshare", "-n", sys.executable, "-c", NETWORK.format(tree=str(TREE)) + script, seconds=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_PX53_beside() -> None:
    """PX-53: a broadcast reaches the DHCP server and castd; what is sent to the machine alone only the server."""
    script = """
dhcp = server(1)
ours = opened("255.255.255.255%10.66.0.2")
client("d1").sendto(b"all", ("255.255.255.255", 67))
client("lo").sendto(b"one", ("10.66.0.2", 67))
print(json.dumps([heard(dhcp), heard(ours)]))
"""
    assert inNamespace(script) == [["all", "one"], ["all"]]


@pytest.mark.slow
def test_PX53_serverLast() -> None:
    """PX-53: a DHCP server can be started after castd, and gets its unicasts all the same."""
    script = """
ours = opened("255.255.255.255%10.66.0.2")
dhcp = server(1)
client("d1").sendto(b"all", ("255.255.255.255", 67))
client("lo").sendto(b"one", ("10.66.0.2", 67))
print(json.dumps([heard(dhcp), heard(ours)]))
"""
    assert inNamespace(script) == [["all", "one"], ["all"]]


@pytest.mark.slow
def test_PX54_alone() -> None:
    """PX-54: a server that does not share its port keeps castd from it, and nothing else does."""
    script = """
dhcp = server(0)
try:
    opened("255.255.255.255%10.66.0.2")
    first = ""
except OSError as error:
    first = error.strerror
dhcp.close()
shared = server(1)
opened("255.255.255.255%10.66.0.2")
try:
    opened("10.66.0.2")
    second = ""
except OSError as error:
    second = error.strerror
print(json.dumps([first, second]))
"""
    assert inNamespace(script) == ["Address already in use", "Address already in use"]


@pytest.mark.slow
def test_PX56_devices() -> None:
    """PX-56: each of two sockets hears the broadcasts of its own interface, and answers from its own address."""
    script = """
first, second = opened("255.255.255.255%10.66.0.3"), opened("255.255.255.255%10.88.0.2")
ears = {}
for device in ("d1", "d2"):
    ears[device] = client(device)
    ears[device].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ears[device].bind(("255.255.255.255", 68))
    ears[device].sendto(device.encode(), ("255.255.255.255", 67))
got = [heard(first), heard(second)]
sockets.sendFrom(first, b"offer", ("255.255.255.255", 68), "10.66.0.3")
sockets.sendFrom(second, b"offer", ("255.255.255.255", 68), "10.88.0.2")
for device in ("d1", "d2"):
    got.append([ears[device].recvfrom(100)[1], heard(ears[device])])
print(json.dumps(got))
"""
    assert inNamespace(script) == [["d1"], ["d2"], [["10.66.0.3", 67], []], [["10.88.0.2", 67], []]]


@pytest.mark.slow
def test_PX58_group() -> None:
    """PX-58: a socket of a group hears what is sent there by its interface."""
    script = """
ours = opened("239.255.66.1%10.66.0.2", 4011)
own = opened("10.66.0.2", 4011)
for device in ("d1", "d2"):
    sender = client(device)
    address = {"d1": "10.66.0.2", "d2": "10.88.0.2"}[device]
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.sendto(device.encode(), ("239.255.66.1", 4011))
print(json.dumps([heard(ours), heard(own)]))
"""
    assert inNamespace(script) == [["d1"], []]


@pytest.mark.slow
def test_PX07_ownPort() -> None:
    """PX-07: where relays are answered, the address's own socket gets what is sent to it, and the other broadcasts."""
    script = """
broadcasts, own = opened("255.255.255.255%10.66.0.2"), opened("10.66.0.2")
client("d1").sendto(b"all", ("255.255.255.255", 67))
client("lo").sendto(b"one", ("10.66.0.2", 67))
print(json.dumps([heard(broadcasts), heard(own)]))
"""
    assert inNamespace(script) == [["all"], ["one"]]


@pytest.mark.slow
def test_PX45_address() -> None:
    """PX-45: an address that no interface has cannot be bound, and is known to be none."""
    script = """
try:
    opened("255.255.255.255%10.66.0.9")
    text = ""
except OSError as error:
    text = error.strerror
found = devices.Interfaces()
print(json.dumps([text, found.reached("10.66.0.9"), [str(each) for each in found.reached("10.66.0.3")],
    sockets.boundHost(opened("255.255.255.255%10.88.0.2"))]))
"""
    expected = ["Cannot assign requested address", None, ["10.66.0.0/24"], "255.255.255.255%10.88.0.2"]
    assert inNamespace(script) == expected
