"""
Open files without waiting for a disk: ask the kernel only for what it has in memory.

C{openat2} with C{RESOLVE_CACHED} (Linux 5.12) opens a file if all directories in its path are in memory, and fails with
C{EAGAIN} if one is not.  It says nothing of what the file system itself does when a file is opened: FUSE, NFS, SMB and
9p ask a server.  So it is used on file systems only that are known to open a file from memory (L{fromMemory}), and
never crosses to another mount.

L{AtHand} does so for the files below one directory; L{Root<castd.files.root.Root>} adds what waits for the disk.

Python has no function for these calls; by C{ctypes} each costs a quarter of a microsecond more.  Where the kernel, the
C library or a seccomp filter does not have one, L{openat2} returns L{None}, and everything is done in a thread.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import lru_cache
from typing import Literal, TypeAlias

Links: TypeAlias = Literal["inside", "never"]

_SYS_OPENAT2 = 437
_AT_FDCWD = -100

#: Resolve only what is in memory (openat2(2)).
_RESOLVE_CACHED = 0x20
_RESOLVE_BENEATH = 0x08
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_XDEV = 0x01

_AT_EMPTY_PATH = 0x1000
#: Return what is in memory, as a file server's answer would have to be waited for (statx(2)).
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BASIC_STATS = 0x7FF

#: File systems that open a file from memory once its inode is there, by their magic number (statfs(2)): ext2 to ext4,
#: XFS, btrfs, F2FS, bcachefs, tmpfs, ramfs, EROFS, SquashFS, ISO 9660, FAT.  All others may ask somebody: FUSE, NFS,
#: SMB, 9p, Ceph; and overlayfs, whose files may lie on any of these.
_FROM_MEMORY = frozenset(
    (
        0xEF53,
        0x58465342,
        0x9123683E,
        0xF2F52010,
        0xCA451A4E,
        0x01021994,
        0x858458F6,
        0xE0F5E1E2,
        0x73717368,
        0x9660,
        0x4D44,
    )
)

#: A FIFO or a terminal line must not make the server wait, nor become its controlling terminal.
FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: Errors that pass as soon as a transfer ends: at "busy" a client gives up, without an answer it asks again.
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
#: Errors of C{openat2} and C{preadv2} where the kernel, the file system or a seccomp filter has no such call.
NO_SUCH_CALL = frozenset((errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP))
#: Errors of L{openat2} that the same request would have in a thread.
_FINAL = frozenset((errno.ENOENT, errno.EACCES)) | NO_DESCRIPTORS

#: In C{struct statx}, from its inode on: inode, size, seconds and nanoseconds of the last change of the inode and of
#: the octets, device.
_VERSION = struct.Struct("QQ48xqI4xqI12xII")

#: Device, inode, size, and in nanoseconds the times of the last change of the octets and of the inode.  Inodes are used
#: again, and programs set the former time (C{cp -p}, reproducible builds); the latter can be set by nobody.
Version: TypeAlias = tuple[int, int, int, int, int]

try:
    import ctypes

    # PyDLL keeps the lock of the interpreter: these calls do not wait, and who got the lock might keep it for long.
    _quick = ctypes.PyDLL(None, use_errno=True)
    _slow = ctypes.CDLL(None, use_errno=True)
    _syscall, _statx = _quick.syscall, _quick.statx
    _syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    #: The result of statx; only the reactor's thread asks for it.
    _status = ctypes.create_string_buffer(256)
    _available = hasattr(os, "RWF_NOWAIT")
except (ImportError, AttributeError, OSError, MemoryError):
    # Without ctypes, or without the memory that it needs where nothing may be written and run.
    _available = False


@lru_cache(16)
def _how(flags: int, beneath: bool, links: bool) -> bytes:
    """Return the C{struct open_how} of L{openat2}."""
    resolve = _RESOLVE_CACHED
    if beneath:
        resolve |= _RESOLVE_BENEATH | _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS
    if not links:
        resolve |= _RESOLVE_NO_SYMLINKS
    return struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)


def openat2(path: bytes, flags: int, beneath: int | None = None, links: bool = True) -> int | None:
    """
    Open a file if that needs nothing but what is in memory.

    @param flags: as for C{open}; without C{O_CREAT} and C{O_TRUNC}.
    @param beneath: the descriptor of a directory that the path is relative to, and must not leave, nor must it lead to
        another mount; L{None}: the path is absolute.
    @param links: follow symbolic links; C{False}: do not open what is behind one.
    @return: the descriptor; L{None}: unknown, as the disk would have to be asked, or the kernel cannot do this.
    @raise OSError: there is no such file, it may not be opened, or no descriptors are left.
    """
    if not _available or b"\0" in path:
        return None
    how = _how(flags, beneath is not None, links)
    fd: int = _syscall(_SYS_OPENAT2, _AT_FDCWD if beneath is None else beneath, path, how, len(how))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in _FINAL:
        raise OSError(number, os.strerror(number))
    return None


def refusal() -> str:
    """Return why no file can be opened from memory in this process, whatever its file system; C{""}: it can."""
    if not _available:
        return "Python has no ctypes here, or cannot read from memory"
    how = _how(os.O_PATH, False, True)
    fd: int = _syscall(_SYS_OPENAT2, _AT_FDCWD, b"/", how, len(how))
    if fd >= 0:
        os.close(fd)
        return ""
    number = ctypes.get_errno()
    return os.strerror(number) if number in NO_SUCH_CALL else ""


def leadsBeyond(path: bytes, beneath: int) -> bool:
    """
    Return whether a path leads to another mount, or by an absolute link.  This waits for the disk, but only for that of
    the directory itself.

    @param beneath: the descriptor of the directory that the path is relative to.
    @return: also C{False} where this cannot be found out.
    """
    if not _available or b"\0" in path:
        return False
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_XDEV)
    fd: int = _slow.syscall(_SYS_OPENAT2, beneath, path, how, len(how))
    if fd >= 0:
        os.close(fd)
        return False
    return ctypes.get_errno() == errno.EXDEV


def versionOf(fd: int) -> Version | None:
    """
    Return the version of an open file, as C{os.fstat} tells it, without asking a file server.

    @return: L{None}: the call fails.
    """
    if not _available or _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_BASIC_STATS, _status):
        return None
    inode, size, changed, changedNs, written, writtenNs, major, minor = _VERSION.unpack_from(_status, 32)
    times = written * 1_000_000_000 + writtenNs, changed * 1_000_000_000 + changedNs
    return os.makedev(major, minor), inode, size, *times


def fromMemory(fd: int) -> bool:
    """
    Return whether a file lies on a file system that opens files from memory.  This may wait for the disk.

    @return: also C{False} where this cannot be found out, or Python does not know how to read from memory.
    """
    if not _available:
        return False
    found = ctypes.create_string_buffer(256)
    if _slow.fstatfs(fd, found):
        return False
    (magic,) = struct.unpack_from("l", found)
    return magic & 0xFFFFFFFF in _FROM_MEMORY


class OpenedDirectory:
    """
    Holds a directory as it was opened.

    @ivar fd: its descriptor.
    @ivar identity: its device and inode.
    @ivar fromMemory: it lies on a file system that opens files from memory, see L{fromMemory}.
    """

    __slots__ = ("fd", "fromMemory", "identity")

    fd: int
    identity: tuple[int, int]
    fromMemory: bool

    def isStill(self, path: bytes) -> bool:
        """
        Return whether this is the directory at a path, by what the kernel has in memory.

        @return: also C{True} if there is none at the path; C{False}: it is not, or the disk would have to be asked.
        @raise OSError: no descriptors are left.
        """
        try:
            fd = openat2(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
                raise
            return True
        if fd is None:
            return False
        try:
            found = versionOf(fd)
            return found is not None and found[:2] == self.identity
        finally:
            os.close(fd)


class AtHand:
    """
    Opens files below one directory that are in memory, and sees what has become of them.

    @ivar path: the absolute path of the directory, as configured.
    @ivar links: C{"inside"}: symbolic links are followed as long as they stay within; C{"never"}: none is.
    @ivar ignoreCase: a name that is not found may be found in another spelling, by who can wait.
    """

    _opened: OpenedDirectory | None = None

    def __init__(self, path: str, links: Links, ignoreCase: bool) -> None:
        # The working directory changes when the server becomes a daemon.
        self.path, self.links, self.ignoreCase = os.path.abspath(path), links, ignoreCase
        self._octets = os.fsencode(self.path)

    def openAtHand(self, parts: tuple[bytes, ...]) -> int | None:
        """
        Open a file for reading, if that needs nothing but what the kernel has in memory.

        @param parts: those of its name.
        @return: its descriptor; L{None}: unknown, the disk is to be asked in a thread.
        @raise OSError: it cannot be opened, nor could it be in a thread.
        """
        directory = self._opened
        if directory is None or not directory.fromMemory:
            return None
        try:
            if not directory.isStill(self._octets):
                return None
            return openat2(b"/".join(parts), FILE_FLAGS, directory.fd, self.links == "inside")
        except OSError as error:
            if self.ignoreCase and error.errno == errno.ENOENT:
                return None
            raise

    def versionAtHand(self, parts: tuple[bytes, ...]) -> Version | None:
        """
        Return the version of what is at the path of a file now, from memory.  Nothing is opened for reading: this
        serves to find a file unchanged that was opened by L{openAtHand} before.  No link is followed, as it may have
        been put where a directory was that is outside now, with the very same file in it.

        @return: L{None}: it cannot be told; or there is nothing.
        """
        try:
            fd = openat2(b"/".join((self._octets, *parts)), os.O_PATH, None, False)
        except OSError:
            return None
        if fd is None:
            return None
        try:
            return versionOf(fd)
        finally:
            os.close(fd)
