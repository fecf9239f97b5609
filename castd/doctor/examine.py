"""
Runs the checks, each in a process of its own: one that hangs on a disk is given up, and one can become another user.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

from castd.doctor.disks import lookAtFiles, lookAtLabels, lookAtLogs
from castd.doctor.findings import Check, Finding, Subject
from castd.doctor.firewall import lookAtFirewall
from castd.doctor.machine import IMachine
from castd.doctor.network import lookAtGroups, lookAtMtu, lookAtRoutes, lookForQuerier
from castd.doctor.ports import lookAtPorts, lookAtPrivileges, lookForServers
from castd.doctor.process import lookAtClock, lookAtDescriptors

#: All checks, in the order in which their findings are shown.
CHECKS: Final = (
    Check("ports", lookAtPorts),
    Check("privileges", lookAtPrivileges),
    Check("descriptors", lookAtDescriptors),
    Check("mtu", lookAtMtu, 10.0),
    Check("routes", lookAtRoutes),
    Check("groups", lookAtGroups, 20.0),
    Check("querier", lookForQuerier),
    Check("firewall", lookAtFirewall, 10.0),
    Check("files", lookAtFiles, 10.0),
    Check("selinux", lookAtLabels, 10.0),
    Check("logs", lookAtLogs),
    Check("clock", lookAtClock),
    Check("servers", lookForServers, 50.0),
)

_CHUNK: Final = 1 << 16


def runChecks(
    subject: Subject, machine: IMachine, checks: Sequence[Check] = CHECKS
) -> Iterator[tuple[str, list[Finding]]]:
    """
    Run all checks at once.

    @return: the name of each check with its findings, in the order of the checks.  A check that is late, or that
        failed, has found that something is not known.
    """
    children = [(check, _Child(partial(_look, check, subject, machine))) for check in checks]
    began = time.monotonic()
    for check, child in children:
        seconds = check.seconds + subject.seconds
        yield check.name, child.findings(began + seconds, seconds)


def _look(check: Check, subject: Subject, machine: IMachine) -> list[Finding]:
    return list(check.look(subject, machine))


class _Child:
    """A process that runs one check."""

    def __init__(self, look: Callable[[], list[Finding]]) -> None:
        self._pipe, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _answer(look, writing)
        os.close(writing)

    def findings(self, deadline: float, seconds: float) -> list[Finding]:
        """Return what the check has found, at the latest at this instant of the monotonic clock."""
        answer = b""
        try:
            while True:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([self._pipe], [], [], left)[0]:
                    cure = "a disk or a network file system that does not answer? ps -o wchan,cmd"
                    return [Finding("not known", f"this check did not end within {seconds:g} s", cure)]
                part = os.read(self._pipe, _CHUNK)
                if not part:
                    break
                answer += part
        finally:
            self._end()
        return [Finding(*each) for each in json.loads(answer)] if answer else [_failed("its process ended")]

    def _end(self) -> None:
        """End the process, and do not wait for it: one that waits for a disk cannot be ended now."""
        os.close(self._pipe)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)


def _answer(look: Callable[[], list[Finding]], writing: int) -> NoReturn:
    """Run a check, write its findings to a pipe, and end this process without cleaning up what is its parent's."""
    try:
        try:
            found = look()
        except Exception:
            found = [_failed(traceback.format_exc().strip().splitlines()[-1])]
        with os.fdopen(writing, "w") as pipe:
            json.dump(found, pipe)
    finally:
        os._exit(0)


def _failed(why: str) -> Finding:
    return Finding("not known", f"this check failed: {why}", "a fault of castd: report it")
