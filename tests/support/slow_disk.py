"""
A file system in memory that answers as late as it is told to: C{python -m tests.support.slow_disk DIRECTORY}.

It speaks the FUSE protocol with the kernel itself (C{/dev/fuse}, L{linux/fuse.h} 7.31), so it needs no library; only
root may mount it.  It reads lines: C{delay SECONDS} for each answer from now on, C{file NAME OCTETS} for a file of so
many octets C{x}.  It answers each with the word C{done}, and is gone at the end of its input.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush

_MNT_DETACH = 2
#: The most octets in one request.
LARGEST = 1 << 20
#: Requests that have no answer: FORGET, INTERRUPT, BATCH_FORGET.
UNANSWERED = (2, 36, 42)
INIT = 26

_libc = ctypes.CDLL(None, use_errno=True)


class Node:
    """A file or a directory; a directory has C{names}."""

    def __init__(self, number: int, mode: int) -> None:
        self.number, self.mode, self.links = number, mode, 1
        self.data = bytearray()
        self.names: dict[bytes, Node] = {}
        self.changed = time.time_ns()


class SlowDisk:
    """The file system: one directory with files."""

    def __init__(self, fuse: int) -> None:
        self._fuse = fuse
        self.delay = 0.0
        self.root = Node(1, stat.S_IFDIR | 0o755)
        self._nodes = {1: self.root}
        self._late: list[tuple[float, int, bytes]] = []
        self._calls: dict[int, Callable[[Node, bytes], bytes]] = {
            1: lambda node, data: self._entry(self._child(node, data)),
            3: lambda node, _: self._attributes(node),
            4: self._change,
            10: self._unlink,
            12: lambda node, data: self._rename(node, data[:8], data[8:]),
            13: self._link,
            14: lambda node, _: struct.pack("QII", 0, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda *_: struct.pack("5Q10I", 1 << 30, 1 << 30, 1 << 30, 1000, 1000, 4096, 255, 4096, *([0] * 7)),
            18: lambda *_: b"",
            20: lambda *_: b"",
            25: lambda *_: b"",
            26: self._init,
            27: lambda *_: struct.pack("QII", 0, 0, 0),
            28: self._list,
            29: lambda *_: b"",
            30: lambda *_: b"",
            35: self._create,
            45: lambda node, data: self._rename(node, data[:8], data[16:]),
        }

    def file(self, name: bytes, mode: int = stat.S_IFREG | 0o644) -> Node:
        """Make a file."""
        node = self.root.names[name] = Node(len(self._nodes) + 1, mode)
        self._nodes[node.number] = node
        return node

    def serve(self, commands: int) -> None:
        """Answer requests and commands until there are no more commands, or it is unmounted."""
        while True:
            until = self._late[0][0] - time.monotonic() if self._late else None
            ready, _, _ = select.select([self._fuse, commands], [], [], None if until is None else max(0, until))
            while self._late and self._late[0][0] <= time.monotonic():
                self._reply(heappop(self._late)[2])
            if self._fuse in ready:
                self._request(os.read(self._fuse, LARGEST + 4096))
            if commands in ready and not self._command(os.read(commands, 4096)):
                return

    def _command(self, line: bytes) -> bool:
        for word, *rest in map(bytes.split, line.splitlines()):
            if word == b"delay":
                self.delay = float(rest[0])
            elif word == b"file":
                self.file(rest[0]).data[:] = b"x" * int(rest[1])
            sys.stdout.write("done\n")
            sys.stdout.flush()
        return bool(line)

    def _request(self, request: bytes) -> None:
        _, code, unique, number = struct.unpack_from("IIQQ", request)
        if code in UNANSWERED:
            return
        try:
            error, answer = 0, self._calls[code](self._nodes[number] if number else self.root, request[40:])
        except KeyError:
            error, answer = errno.ENOSYS, b""
        except OSError as failed:
            error, answer = failed.errno or errno.EIO, b""
        whole = struct.pack("IiQ", 16 + len(answer), -error, unique) + answer
        if not self.delay or code == INIT:
            self._reply(whole)
        else:
            heappush(self._late, (time.monotonic() + self.delay, unique, whole))

    def _reply(self, answer: bytes) -> None:
        # A request that was interrupted is not there any more.
        with suppress(FileNotFoundError):
            os.write(self._fuse, answer)

    # What each request is answered with.

    def _init(self, _: Node, data: bytes) -> bytes:
        return struct.pack("4I2H2I2HI7I", 7, 31, 65536, 0, 64, 48, LARGEST, 1, 0, 0, 0, *([0] * 7))

    def _child(self, node: Node, data: bytes) -> Node:
        name = data.partition(b"\0")[0]
        if name not in node.names:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return node.names[name]

    def _status(self, node: Node) -> bytes:
        seconds, nanoseconds = divmod(node.changed, 10**9)
        times = (*([seconds] * 3), *([nanoseconds] * 3))
        return struct.pack("6Q10I", node.number, len(node.data), 8, *times, node.mode, node.links, 0, 0, 0, 4096, 0)

    def _entry(self, node: Node) -> bytes:
        # Nothing is valid for longer than this answer: the kernel asks each time.
        return struct.pack("4QII", node.number, 0, 0, 0, 0, 0) + self._status(node)

    def _attributes(self, node: Node) -> bytes:
        return struct.pack("QII", 0, 0, 0) + self._status(node)

    def _change(self, node: Node, data: bytes) -> bytes:
        valid, size, mode = struct.unpack_from("I12xQ44xI", data)
        if valid & 1:
            node.mode = mode
        if valid & 8:
            node.data[:] = node.data[:size].ljust(size, b"\0")
        return self._attributes(node)

    def _create(self, node: Node, data: bytes) -> bytes:
        name = data[16:].partition(b"\0")[0]
        made = self.file(name, struct.unpack_from("4xI", data)[0])
        return self._entry(made) + struct.pack("QII", 0, 0, 0)

    def _read(self, node: Node, data: bytes) -> bytes:
        offset, size = struct.unpack_from("8xQI", data)
        return bytes(node.data[offset : offset + size])

    def _write(self, node: Node, data: bytes) -> bytes:
        offset, size = struct.unpack_from("8xQI", data)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + size] = data[40 : 40 + size]
        node.changed = time.time_ns()
        return struct.pack("II", size, 0)

    def _link(self, node: Node, data: bytes) -> bytes:
        made = self._nodes[struct.unpack_from("Q", data)[0]]
        name = data[8:].partition(b"\0")[0]
        if name in node.names:
            raise FileExistsError(errno.EEXIST, "there is one")
        node.names[name] = made
        return self._entry(made)

    def _unlink(self, node: Node, data: bytes) -> bytes:
        self._child(node, data)
        del node.names[data.partition(b"\0")[0]]
        return b""

    def _rename(self, node: Node, target: bytes, names: bytes) -> bytes:
        old, new = names.split(b"\0")[:2]
        self._nodes[struct.unpack("Q", target)[0]].names[new] = self._child(node, old)
        del node.names[old]
        return b""

    def _list(self, node: Node, data: bytes) -> bytes:
        (offset,) = struct.unpack_from("8xQ", data)
        found = b""
        for place, (name, each) in enumerate(list(node.names.items())[offset:], offset + 1):
            found += struct.pack("QQII", each.number, place, len(name), each.mode >> 12) + name
            found += bytes(-len(name) % 8)
        return found


def mount(directory: str) -> int:
    """Mount at this directory.  -> the descriptor that the kernel's requests are read from."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    how = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={LARGEST}"
    if _libc.mount(b"slow", os.fsencode(directory), b"fuse", 0, how.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount")
    return fuse


def main(directory: str) -> None:
    """Serve the file system until the end of the input, or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fuse = mount(directory)
    try:
        disk = SlowDisk(fuse)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        disk.serve(sys.stdin.fileno())
    finally:
        _libc.umount2(os.fsencode(directory), _MNT_DETACH)
        os.close(fuse)


if __name__ == "__main__":
    main(sys.argv[1])
