"""
The calls that the kernel sees of a running castd, made to fail in turn by a tracer: with what Python makes of them.

Whatever it asks the kernel for while it serves is found by counting, so none is forgotten.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from castd.testing import pattern
from tests.support.jobs import eventually
from tests.support.lab.castd import Alone, Peer, fetched, served
from tests.support.needs import lack, need

pytestmark = pytest.mark.e2e

DATA = pattern(20_000)
#: With what each call of the data path is made to fail; EINTR is Python's to repeat.
FAULTS = {
    "openat": "EINTR EMFILE EIO",
    "openat2": "EAGAIN ENOSYS EPERM EMFILE",
    "statx": "EIO ENOSYS",
    "newfstatat": "EIO",
    "fstat": "EIO",
    "close": "EIO EINTR",
    "preadv2": "EINTR EIO EAGAIN EOPNOTSUPP",
    "write": "EINTR ENOSPC",
    "fsync": "EINTR EIO",
    "fchmod": "EIO",
    "rename": "EIO",
    "renameat": "EIO",
    "linkat": "EIO",
    "unlinkat": "EIO",
    "flock": "ENOLCK",
    "fstatfs": "EIO",
    "socket": "EMFILE ENOBUFS",
    "bind": "EADDRINUSE ENOMEM",
    "connect": "ENETUNREACH",
    "setsockopt": "ENOBUFS",
    "getsockname": "ENOBUFS",
    "getsockopt": "ENOPROTOOPT ENOBUFS",
    "sendto": "EINTR EAGAIN ENOBUFS ENETDOWN",
    "sendmsg": "EINTR EAGAIN ENOBUFS",
    "recvfrom": "EINTR ENOMEM",
    "recvmsg": "EINTR ENOMEM",
    "epoll_ctl": "ENOMEM ENOSPC",
    "epoll_wait": "EINTR",
}
#: What else is seen: memory, threads and clocks of the interpreter, the log, and what cannot fail.
OTHERS = frozenset(
    [
        "brk",
        "mmap",
        "munmap",
        "mprotect",
        "madvise",
        "futex",
        "clone",
        "clone3",
        "rseq",
        "set_robust_list",
        "rt_sigprocmask",
        "rt_sigaction",
        "exit",
        "sched_yield",
        "sched_getaffinity",
        "getpid",
        "gettid",
        "umask",
        "lseek",
        "ioctl",
        "fcntl",
        "getrandom",
        "clock_gettime",
        "clock_nanosleep",
        "restart_syscall",
        "read",
        "poll",
        "readlink",
        "readlinkat",
        "getdents64",
        "prlimit64",
        "lstat",
        "stat",
        "faccessat",
        "faccessat2",
        "dup",
        "mremap",
        "prctl",
        "set_tid_address",
    ]
)


@contextmanager
def traced(castd: Alone, *words: str) -> Iterator[None]:
    """A tracer is attached to it meanwhile."""
    (strace,) = need("strace")
    tracer = subprocess.Popen([strace, "-f", "-qq", "-p", str(castd.process.pid), *words], stderr=subprocess.PIPE)
    status = Path(f"/proc/{castd.process.pid}/status")
    try:
        eventually(lambda: "TracerPid:\t0" not in status.read_text() or tracer.poll() is not None, "the tracer", 10)
        if tracer.poll() is not None:
            lack(f"no process can be traced here: {tracer.communicate()[1].decode()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)


@pytest.fixture(scope="module")
def castd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "root").mkdir()
    (folder / "root" / "file").write_bytes(DATA)
    uploads = [
        {"directory": {"path": str(folder / "root"), "policy": policy, "under": policy, "keep-free": 0}}
        for policy in ("create", "overwrite")
    ]
    made = Alone(folder, {"content": [{"directory": {"path": str(folder / "root")}}], "uploads": uploads})
    yield made
    # The socket that wakes the reactor is written to as well, and no kernel says of that that its disk is full.
    made.end(except_="in wakeUp")


_numbers = iter(range(1, 10_000))


def work(castd: Alone) -> list[Peer]:
    """A reader and two writers, until they are served or told."""
    peers = [
        Peer(castd.port, "file"),
        Peer(castd.port, f"create/new{next(_numbers)}", DATA),
        Peer(castd.port, "overwrite/log", DATA),
    ]
    served(peers)
    return peers


def serves(castd: Alone) -> None:
    """Everybody gets what it asks for."""
    assert [each.error for each in work(castd)] == [b"", b"", b""]
    assert fetched(castd, "file") == DATA


def test_noCallIsForgotten(castd: Alone, tmp_path: Path) -> None:
    """Every call of the kernel that is made while castd serves is made to fail here, or known to be no part of it."""
    counts = tmp_path / "counts"
    with traced(castd, "-c", "-o", str(counts)):
        serves(castd)
    seen = {line.split()[-1] for line in counts.read_text().splitlines() if re.match(r"\s+[0-9]", line)} - {"total"}
    assert "sendto" in seen
    assert seen - FAULTS.keys() - OTHERS == set()


@pytest.mark.parametrize(
    ("call", "fault"), [(call, fault) for call, faults in FAULTS.items() for fault in faults.split()]
)
def test_aCallFails(castd: Alone, call: str, fault: str) -> None:
    """The second one of its kind fails, then every third: clients are served or told, then castd serves as before."""
    with traced(castd, "-e", f"trace={call}", "-e", f"inject={call}:error={fault}:when=2+3"):
        for each in work(castd):
            assert each.error or each.data == DATA or not each.data
    assert castd.process.poll() is None
    serves(castd)
