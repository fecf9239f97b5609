"""
Checks what castd reads and writes: directories that are served, their SELinux labels, logs, and room on the disks.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from castd import units
from castd.config.config import RUNTIME, Config, Entry, ownFiles
from castd.doctor.findings import Finding, Subject
from castd.doctor.machine import IMachine
from castd.files.content import DirectoryOptions
from castd.files.upload_options import UploadDirectoryOptions

#: Files that are looked at in each directory, and those that are named.
_MOST_FILES, _NAMED = 20_000, 5
#: Octets and files that a disk for logs needs at least.
_LEAST_FREE, _LEAST_FILES = 16 << 20, 100
_ENFORCE: Final = "/sys/fs/selinux/enforce"
_WORLD_READABLE: Final = stat.S_IROTH


def served(config: Config) -> list[DirectoryOptions]:
    """Return the directories whose files are served."""
    return [each.options for each in config.content if isinstance(each.options, DirectoryOptions)]


def taking(config: Config) -> list[UploadDirectoryOptions]:
    """Return the directories that take uploads."""
    return [each.options for each in config.uploads if isinstance(each.options, UploadDirectoryOptions)]


def _becomeUser(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Become the user who serves, and find out whether what follows is what that user may do."""
    if subject.user is None:
        if machine.uid == 0:
            yield Finding("not known", "whether castd's own user may do this: root may do all", "--user NAME")
    elif machine.uid == 0:
        if subject.pid is not None:
            machine.enter(subject.process)
        machine.become(subject.user)
    elif machine.uid != subject.user.uid:
        what = f"what user {subject.user.uid} may do: it is looked at as user {machine.uid}"
        yield Finding("not known", what, "run this as root")


def lookAtFiles(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the user who serves may read every file, and write where uploads go."""
    yield from _becomeUser(subject, machine)
    for options in served(subject.config):
        yield from _directoryFindings(options, machine)
    for entry in subject.config.content:
        if not isinstance(entry.options, DirectoryOptions):
            yield from _sourceFindings(entry, machine)
    for leases in subject.config.machines.leases:
        yield _readFinding("machines.leases", leases.path, machine)
    for uploads in taking(subject.config):
        yield _uploadFinding(uploads, machine)


def _sourceFindings(entry: Entry, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the files that another source names can be read, such as a template."""
    paths = [each for _, each in entry.options if isinstance(each, Path)]
    for path in paths:
        yield _readFinding(entry.name, path, machine)
    if not paths:
        yield Finding("not known", f"{entry.name}: what {entry.kind} reads")


def _readFinding(name: str, path: Path, machine: IMachine) -> Finding:
    """Find out whether one file can be read, which something of this name reads."""
    if machine.access(str(path), os.R_OK):
        return Finding("fine", f"{name}: user {machine.uid} may read {path}")
    closed = _closedFolder(path.parent, machine)
    if closed is not None:
        return Finding("problem", f"{name}: {path}: {_closedBy(closed, machine)}", f"namei -l {path}")
    if not _exists(str(path), machine):
        return Finding("problem", f"{name}: {path} is not there", f"namei -l {path}")
    return Finding("problem", f"{name}: user {machine.uid} may not read {path}", f"namei -l {path}")


def _closedFolder(path: Path, machine: IMachine) -> str | None:
    """Return the outermost folder on the way to a path, or the path, that this user may not enter; L{None}: none."""
    return next((str(each) for each in (*reversed(path.parents), path) if not machine.access(str(each), os.X_OK)), None)


def _closedBy(folder: str, machine: IMachine) -> str:
    """Return why what L{_closedFolder} has found cannot be entered, in words."""
    why = "is not there" if not _exists(folder, machine) else f"is closed to user {machine.uid}"
    return f"{folder} {why}"


def _directoryFindings(options: DirectoryOptions, machine: IMachine) -> Iterator[Finding]:
    path = options.base
    closed = _closedFolder(path, machine)
    if closed is not None:
        yield Finding("problem", f"{path}: {_closedBy(closed, machine)}", f"namei -l {path}; chmod o+x {closed}")
        return
    found, whole = _below(str(path), machine)
    unreadable = [name for name, isFolder in found if not _mayRead(name, isFolder, options.worldReadable, machine)]
    if unreadable:
        seen = str(len(found)) if whole else f"the first {len(found)}"
        what = f"{path}: user {machine.uid} may not read {len(unreadable)} of {seen}: {_some(unreadable)}"
        yield Finding("problem", what, "chmod o+r (folders: o+x), or setfacl -m u:USER:rX")
    else:
        which = "all" if whole else "the first"
        yield Finding("fine", f"{path}: user {machine.uid} may read {which} {len(found)} files and folders seen")
    # castd opens by name, so it may serve from a folder that it may not list.
    folders = [str(path), *(name for name, isFolder in found if isFolder and name not in unreadable)]
    if hidden := [name for name in folders if not machine.access(name, os.R_OK)]:
        yield Finding("not known", f"what is in folders that user {machine.uid} may not list: {_some(hidden)}")


def _mayRead(path: str, isFolder: bool, worldReadable: bool, machine: IMachine) -> bool:
    if isFolder:
        return machine.access(path, os.X_OK)
    isOpen = not worldReadable or bool(machine.mode(path) & _WORLD_READABLE)
    return isOpen and machine.access(path, os.R_OK)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _exists(path: str, machine: IMachine) -> bool:
    try:
        machine.mode(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _below(folder: str, machine: IMachine) -> tuple[list[tuple[str, bool]], bool]:
    """
    Return the files and folders below a folder, and whether each is a folder; and whether these are all.  Links are
    left out.
    """
    found = list[tuple[str, bool]]()
    waiting, left = [folder], _MOST_FILES
    while waiting:
        here = waiting.pop()
        for name in machine.names(here):
            if not left:
                return found, False
            left -= 1
            path = posixpath.join(here, name)
            try:
                mode = machine.mode(path)
            except OSError:
                continue
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                found.append((path, stat.S_ISDIR(mode)))
            if stat.S_ISDIR(mode):
                waiting.append(path)
    return found, True


def _uploadFinding(options: UploadDirectoryOptions, machine: IMachine) -> Finding:
    path = str(options.base)
    if not machine.access(path, os.W_OK | os.X_OK):
        if _isReadOnly(path, machine):
            return _readOnlyFinding("uploads", path)
        cure = f"chown USER {path}; under systemd ReadWritePaths={path}"
        return Finding("problem", f"uploads: user {machine.uid} may not write in {path}", cure)
    free = machine.free(path).octets
    if free <= options.keepFree:
        what = f"uploads: {path} has {units.showSize(free)} free, and keep-free: {units.showSize(options.keepFree)}"
        return Finding("problem", what, "remove files, or a smaller keep-free")
    return Finding("fine", f"uploads: user {machine.uid} may write in {path}, {units.showSize(free)} are free")


def _isReadOnly(folder: str, machine: IMachine) -> bool:
    try:
        return machine.free(folder).readOnly
    except OSError:
        return False


def _readOnlyFinding(name: str, path: str) -> Finding:
    cure = f"findmnt -T {path}; mount it for writing; after a fault of the disk the kernel mounts it so itself (dmesg)"
    return Finding("problem", f"{name}: the file system of {path} is read-only", cure)


def lookAtLogs(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether logs, history, local sockets and captures can be written, and whether a disk is full."""
    yield from _becomeUser(subject, machine)
    # Where a relative path is, as an endpoint of the metrics may have one, depends on where the server is started.
    own = [(route, path) for route, path in ownFiles(subject.config) if path.is_absolute()]
    for route, path in own:
        yield _targetFinding(".".join(route), path / "*.pcapng" if route[0] == "recorder" else path, machine)
    if not own:
        yield Finding("skipped", "no file for logs, the history or the control socket is named")


def _targetFinding(name: str, path: Path, machine: IMachine) -> Finding:
    folder = str(path.parent)
    try:
        free = machine.free(folder)
    except OSError as error:
        if RUNTIME in path.parents and isinstance(error, FileNotFoundError):
            return Finding("not known", f"{name}: {folder} is not there yet; systemd's RuntimeDirectory= makes it")
        return Finding("problem", f"{name}: {folder}: {error.strerror}", f"mkdir -p {folder}")
    wanted = str(path) if _exists(str(path), machine) else folder
    if not machine.access(wanted, os.W_OK if wanted == str(path) else os.W_OK | os.X_OK):
        if free.readOnly:
            return _readOnlyFinding(name, wanted)
        return Finding("problem", f"{name}: user {machine.uid} may not write {wanted}", f"chown USER {wanted}")
    if free.octets < _LEAST_FREE or free.files < _LEAST_FILES:
        left = f"{units.showSize(free.octets)} and {free.files} files"
        full = "nearly full" if free.octets and free.files else "full"
        return Finding(
            "problem", f"{name}: the disk of {folder} is {full}: {left} left", f"df {folder}; df -i {folder}"
        )
    return Finding("fine", f"{name}: {path} can be written, {units.showSize(free.octets)} are free")


def lookAtLabels(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find files whose SELinux label is not that of their directory: they were moved there, not copied."""
    enforce = (machine.text(_ENFORCE) or "").strip()
    if not enforce:
        yield Finding("skipped", "this kernel enforces no SELinux labels")
        return
    domain = (machine.text(f"/proc/{subject.process}/attr/current") or "?").strip("\0\n")
    whose = "the server runs" if subject.pid is not None else "this process runs"
    mode = "enforcing" if enforce == "1" else "permissive: it reports only"
    for path in _labelled(subject.config):
        yield from _labelFindings(path, f"SELinux is {mode}; {whose} as {domain}", machine)


def _labelled(config: Config) -> Iterable[Path]:
    return dict.fromkeys([*(each.base for each in served(config)), *(each.base for each in taking(config))])


def _type(label: str | None) -> str:
    """Return the type of a label C{user:role:type:level}."""
    parts = (label or "").split(":")
    return parts[2] if len(parts) > 2 else "unlabelled"


def _labelFindings(path: Path, how: str, machine: IMachine) -> Iterator[Finding]:
    own = _type(machine.label(str(path)))
    others: dict[str, str] = {}
    count: Counter[str] = Counter()
    for name, _ in _below(str(path), machine)[0]:
        kind = _type(machine.label(name))
        if kind != own:
            count[kind] += 1
            others.setdefault(kind, name)
    for kind, name in others.items():
        what = f"{count[kind]} files in {path} have the type {kind}, and not {own}, such as {name}"
        yield Finding("problem", what, f"restorecon -Rv {path}")
    cure = f"ausearch -m avc -ts recent; semanage fcontext for {path} (tftpdir_t, public_content_t)"
    yield Finding("not known", f"{path} has the type {own}: whether the policy lets castd read it; {how}", cure)
