"""
Checks what the process itself needs: descriptors, and a clock that is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from castd.doctor.findings import Finding, Subject
from castd.doctor.kernel import openFiles
from castd.doctor.machine import IMachine
from castd.service.bootstrap import affordableCasts, neededDescriptors

#: No clock is right that shows an earlier year than that of this code, or one so late.
_FIRST_YEAR, _LAST_YEAR = 2026, 2099


def lookAtDescriptors(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the process may open what the limits of the service file allow at once."""
    found = openFiles(machine, subject.process)
    casts = subject.config.limits.casts
    need = neededDescriptors(casts)
    if found is None:
        yield Finding("not known", "how many descriptors the process may have")
        return
    soft, hard = found
    # castd raises its soft limit when it starts.
    most = soft if subject.pid is not None else hard
    whose = f"the server (pid {subject.pid})" if subject.pid is not None else "a process started from here"
    what = f"{whose} may open {most} files; limits.casts: {casts} may need {need}"
    if (affordable := affordableCasts(most)) < casts:
        cure = f"LimitNOFILE={need} in the unit, or limits.casts: {affordable}"
        yield Finding("problem", what, cure)
    else:
        yield Finding("fine", what)


def lookAtClock(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """Find out whether the clock can be right: the log, the history and the ages of files depend on it."""
    now = datetime.fromtimestamp(machine.now(), UTC)
    shown = f"the clock shows {now:%Y-%m-%d %H:%M} UTC"
    if not _FIRST_YEAR <= now.year <= _LAST_YEAR:
        yield Finding("problem", f"{shown}, which cannot be", "set the clock; timedatectl set-ntp true")
    else:
        yield Finding("fine", shown)
    held = machine.clockHeld()
    if held is None:
        yield Finding("not known", "whether the clock is synchronised: the kernel does not tell")
    elif held:
        yield Finding("fine", "the kernel's clock is synchronised")
    else:
        yield Finding("not seen", "synchronisation of the kernel's clock", "timedatectl; chronyc tracking")
