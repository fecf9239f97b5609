"""
Keeps what happened to each machine, in an SQLite file or in memory, and answers what is asked of it.

The file outlives reloads, upgrades and restarts.  It is bounded in size and in age, and what strangers cause cannot
displace what happened to machines that have been served: each has half of the room.

A machine may start with any time of day, 1970 or 2036, until its clock is set.  So the order of events is the one in
which they were written, and none is removed for its age by a clock that has just been changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, TypeVar
from urllib.parse import quote

from castd.errors import WrongQuestion
from castd.files.private import checkBeside, openOwn
from castd.machines.known import plainAddress, validMac
from castd.observe.format import asMessage, showInstant

_Value = TypeVar("_Value")

#: The version of the tables, as SQLite's C{user_version}.  A file of another version that no process uses is put aside.
VERSION = 1

#: Seconds that one process waits for the other's lock, while both write: during an upgrade.
LOCK_WAIT = 5.0
#: Seconds between looks for what is too old.
PRUNE_INTERVAL = 60.0
#: A clock that has moved so much more or less than time has passed was set, or does not show the time yet.  Seconds.
CLOCK_CHANGE = 3600.0
#: For so many seconds after that nothing is removed for its age.
CLOCK_PROVEN = 6 * 3600.0
#: The part of the entries that is removed at a time when the file is full.
FREED = 0.1
#: The largest size that the log beside the file (SQLite's C{-wal}) keeps, octets: SQLite's own bound for a calm one.
LARGEST_LOG = 4 << 20
#: How many entries are written before it is looked whether the file is full.
WRITTEN = 64
#: A file that is so many times as large as it may be is written anew: its bound was larger before.
SHRUNK_FROM = 2
#: The most octets of what is in memory.
MEMORY = 4 << 20
#: The most files that are put aside.
MOST_ASIDE = 9
#: What SQLite writes beside a file, and finds there by its name.
_BESIDE = ("-wal", "-shm")

#: SQLite has no larger number for a row.
_LARGEST_ID = (1 << 63) - 1

_TABLES = f"""
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    address TEXT,
    name TEXT,
    event TEXT NOT NULL,
    failed INTEGER NOT NULL,
    served INTEGER NOT NULL,
    times INTEGER NOT NULL,
    fields TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_address ON events (address, time);
DROP INDEX IF EXISTS by_served;
CREATE INDEX IF NOT EXISTS by_kind ON events (served);
PRAGMA user_version = {VERSION};
"""

#: The name of the file in a directory that the service file does not name.
FILE = "history.sqlite"
#: The most entries that are found unless more are asked for.
MOST_FOUND = 1000
#: The most entries that are looked at to merge those that are alike.
MOST_MERGED = 1000


class KeptEvent(NamedTuple):
    """
    One event, as it is kept.

    @ivar time: seconds since 1970.
    @ivar address: the address of the machine, without port, or its MAC if it has none yet; L{None}: the event is about
        the server.
    @ivar name: the name of the file as the machine sent it; L{None}: it is about none.
    @ivar event: the kind of the event, as in the log.
    @ivar failed: a machine did not get what it wanted, or the operator did not.
    @ivar served: the machine has acknowledged something in this event, so its address is no forgery.
    @ivar times: how many equal events this entry stands for.
    @ivar fields: the event without its time, as a JSON object; its message is made of it when it is read.
    """

    time: float
    address: str | None
    name: str | None
    event: str
    failed: bool
    served: bool
    times: int
    fields: str


class Found(TypedDict):
    """An entry, as C{castd history} shows it; C{time} is as in the log, and C{message} the line of the log."""

    time: str
    address: str | None
    name: str | None
    event: str
    failed: bool
    times: int
    message: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class Query:
    """
    What C{castd history} asks for.

    @ivar address: of this machine only: an address in any spelling, of a link-local one with its zone or on each
        network; or a MAC, which also finds what has failed at any address.
    @ivar name: names that match this pattern of SQLite's GLOB (C{*.efi}).
    @ivar since: not before this time, seconds since 1970.
    @ivar failed: only what failed.
    @ivar limit: at most so many, the latest.
    @ivar merged: entries that differ in their time alone are one, the latest, with the sum of C{times}: those of one
        machine, file, kind of event, verdict and fault, among the last L{MOST_MERGED} that are asked for.
    """

    address: str | None = None
    name: str | None = None
    since: float | None = None
    failed: bool = False
    limit: int = MOST_FOUND
    merged: bool = False

    @classmethod
    def read(cls, question: Mapping[str, object]) -> Query:
        """
        Read the question of a control connection; what is not in it is not asked for.

        @raise WrongQuestion: a value is none that can be asked for.
        """
        since, limit = _asked(question, "since", float, int), _asked(question, "limit", int)
        # SQLite has no larger numbers, and takes a limit below 0 for none.
        if since is not None and not abs(since) <= _LARGEST_ID:
            raise WrongQuestion(f"since: {since} cannot be asked for")
        if limit is not None and not 1 <= limit <= _LARGEST_ID:
            raise WrongQuestion(f"limit: {limit} cannot be asked for")
        return cls(
            address=_asked(question, "address", str),
            name=_asked(question, "name", str),
            since=since,
            failed=_asked(question, "failed", bool) or False,
            limit=MOST_FOUND if limit is None else limit,
            merged=_asked(question, "merged", bool) or False,
        )


def _asked(question: Mapping[str, object], key: str, *kinds: type[_Value]) -> _Value | None:
    value = question.get(key)
    if value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
        return value
    raise WrongQuestion(f"{key}: {value} cannot be asked for")


def globEscape(name: str) -> str:
    """Return the pattern of SQLite's GLOB that matches this name and no other."""
    return re.sub(r"[*?\[]", r"[\g<0>]", storable(name))


def storable(name: str) -> str:
    """Return a name that SQLite can hold: octets that are not UTF-8 are shown as C{\\xNN}."""
    return name.encode("utf-8", "backslashreplace").decode()


class _OtherVersion(sqlite3.DatabaseError):
    """A file has the tables of another version of castd."""


class _NotYet(Exception):
    """A file cannot be used, and has to stay as it is."""


class Store:
    """
    A table of events, in a file or in memory.  Its methods wait for the disk, and only one thread may call them at a
    time.

    While a file has to stay as it is, events are kept in memory, and move to the file once it is free: one of another
    version that another process uses, as during an upgrade to a castd with other tables.

    @ivar path: the file; L{None}: in memory.
    @ivar putAside: the name that an unusable file has got, as it was damaged or of another version; L{None}: none was.
    @ivar waitsFor: why events are in memory and not in the file; L{None}: they are where they belong.
    """

    def __init__(
        self, path: str | None, age: float, size: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """
        @param age: how long events are kept, seconds.
        @param size: the largest size of the file (or of what is in memory), octets.
        @param monotonic: -> an instant of a clock that nobody sets.
        @raise OSError: the file cannot be opened or made.
        """
        self.path = path
        self.putAside: str | None = None
        self.waitsFor: str | None = None
        self._age, self._size = age, size
        self._pruned = 0.0
        self._clock = _ProvenClock(monotonic)
        #: Device and inode of the file; L{None}: it is not open.
        self._identity: tuple[int, int] | None = None
        try:
            self._database = _connect(":memory:") if path is None else self._openFile(path)
        except _NotYet as error:
            self._database, self.waitsFor = _connect(":memory:"), str(error)

    def _openFile(self, path: str) -> sqlite3.Connection:
        """
        Open the file, or another one in place of one that is put aside.

        @raise _NotYet: it has to stay as it is.
        """
        _checkFile(path)
        checkBeside(tuple(path + ending for ending in (*_BESIDE, "-journal")))
        try:
            database = _connect(path)
            self._identity = _identityOf(path)
            return database
        except sqlite3.OperationalError as error:
            raise OSError(None, str(error)) from None
        except _OtherVersion as error:
            # Where another process has it open, that would go on in a file that nobody finds.
            if _isInUse(path):
                raise _NotYet(f"{error}, and another process uses it") from None
            self._putFileAside(path)
        except sqlite3.DatabaseError:
            self._putFileAside(path)
        return self._openFile(path)

    def _putFileAside(self, path: str) -> None:
        """
        Give the file a name that no other has, with what SQLite has written beside it and needs to read it.

        @raise _NotYet: so many were put aside that there is no name.
        """
        aside = _reserveName(f"{path}.unusable")
        try:
            os.replace(path, aside)
        except BaseException as error:
            os.unlink(aside)
            if isinstance(error, FileNotFoundError):
                return  # another process has put it aside
            raise
        for ending in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path + ending, aside + ending)
        self.putAside = aside

    def add(self, entries: Sequence[KeptEvent], now: float) -> None:
        """
        Write entries, and remove what is too old or too much.

        @param now: seconds since 1970.
        @raise sqlite3.Error: the disk is full, or does not answer; none of these entries is kept.
        @raise OSError: the file was removed, renamed or damaged, and no other can be made.
        """
        if self.waitsFor is not None:
            self._moveToFile()
        elif self.path is not None and not self._isInPlace(self.path):
            self._beginAnew(self.path)
        try:
            self._write(entries, now)
        except sqlite3.DatabaseError as error:
            if self.path is None or self.waitsFor is not None or not _isDamage(error):
                raise
            # A page in the middle is not looked at when a file is opened: so it would be each time, for ever.
            self._beginAnew(self.path, damaged=True)
            self._write(entries, now)

    def _write(self, entries: Sequence[KeptEvent], now: float) -> None:
        insert = f"INSERT INTO events VALUES (NULL{', ?' * len(KeptEvent._fields)})"
        prunes = not self._pruned <= now < self._pruned + PRUNE_INTERVAL
        if prunes:
            self._pruned = now
        with self._database:
            if prunes and self._clock.isProven(now, self._steadyFor):
                self._removeOld(now)
            # The room that all the entries of a burst would take at once would stay the file's.
            for first in range(0, len(entries), WRITTEN):
                self._database.executemany(insert, entries[first : first + WRITTEN])
                while self._octets() > self._bound and self._makeRoom():
                    pass
        if prunes and self._fileOctets() > SHRUNK_FROM * self._size:
            self._shrink()

    @property
    def _bound(self) -> int:
        """The most octets that entries may take."""
        return self._size if self.waitsFor is None else min(self._size, MEMORY)

    def _steadyFor(self, now: float) -> float:
        """
        Return for how many seconds the clock has gone on steadily up to now, by the events; L{CLOCK_PROVEN}, if it is
        longer, or there are no events from before.
        """
        before = "SELECT id, time FROM events WHERE time NOT BETWEEN ? AND ? ORDER BY id DESC LIMIT 1"
        last = self._database.execute(before, (now - CLOCK_PROVEN, now + CLOCK_CHANGE)).fetchone()
        if last is None:
            return CLOCK_PROVEN
        number, ended = last
        following = "SELECT time FROM events WHERE id > ? ORDER BY id LIMIT 1"
        (began,) = self._database.execute(following, (number,)).fetchone() or (now,)
        # Between two events castd may have been idle, or not have run, each night perhaps: that looks like a clock that
        # was set ahead.  One that is ahead by less than the age of events cannot remove all of them.
        return CLOCK_PROVEN if -CLOCK_CHANGE <= began - ended < self._age else now - began

    def _removeOld(self, now: float) -> None:
        """
        Remove what is too old, and was written before all that is not.  The time of an event alone is no reason: what a
        start without a clock has dated 1970 stands among events that are young.  What is dated in the future goes with
        the older events that were written after it.
        """
        oldest = now - self._age
        # In the order of the table this ends at the first one.
        young = "SELECT id FROM events WHERE time BETWEEN ? AND ? ORDER BY id LIMIT 1"
        (first,) = self._database.execute(young, (oldest, now)).fetchone() or (_LARGEST_ID,)
        last = "SELECT max(id) FROM events WHERE time < ? AND id < ?"
        self._database.execute(f"DELETE FROM events WHERE id <= ({last})", (oldest, first))

    def _shrink(self) -> None:
        """
        Give back the room that the entries of a larger bound have left.  SQLite writes the file anew for that; where
        the disk has no room for it, or another process reads the file, it stays as it is until the next time.
        """
        with contextlib.suppress(sqlite3.OperationalError):
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _fileOctets(self) -> int:
        """Return the octets of the file, with those that nothing uses."""
        return self._pragma("page_count") * self._pragma("page_size")

    def _isInPlace(self, path: str) -> bool:
        """Return whether the file that is open is the one of this name, as far as that can be found out."""
        try:
            return self._identity is not None and self._identity == _identityOf(path)
        except OSError:
            # A file that is open can be written to, also where its directory was closed to this user since.
            return True

    def _beginAnew(self, path: str, damaged: bool = False) -> None:
        """
        Begin another file in place of one that was removed or renamed, since what is written to that is found no more,
        or that is damaged.
        """
        # First the old one: SQLite finds the log beside a file by its name.
        self._database.close()
        before, self._identity = self._identity, None
        try:
            # Another process that shares the file may have met the damage as well, and put it aside.
            if damaged and before == _identityOf(path):
                self._putFileAside(path)
            self._database = self._openFile(path)
        except _NotYet as error:
            self._database, self.waitsFor = _connect(":memory:"), str(error)
        except BaseException:
            # What is asked meanwhile is answered: there is nothing.
            self._database = _connect(":memory:")
            raise

    def _moveToFile(self) -> None:
        """
        Move what is in memory to the file, if that can be used by now.

        @raise sqlite3.Error: the disk is full, or does not answer; it stays in memory.
        @raise OSError: the file cannot be opened or made.
        """
        path, memory, why = self.path, self._database, self.waitsFor
        assert path is not None
        try:
            self._database = self._openFile(path)
        except _NotYet:
            return
        self.waitsFor = None
        columns = ", ".join(KeptEvent._fields)
        kept = [KeptEvent(*row) for row in memory.execute(f"SELECT {columns} FROM events ORDER BY id")]
        try:
            if kept:
                self._write(kept, kept[-1].time)
        except BaseException:
            self._database.close()
            self._database, self.waitsFor, self._identity = memory, why, None
            raise
        memory.close()

    def _octets(self) -> int:
        """Return the octets that entries take; what has been removed is used again and does not count."""
        return self._fileOctets() - self._pragma("freelist_count") * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        ((value,),) = self._database.execute(f"PRAGMA {name}")
        return int(value)

    def _makeRoom(self) -> bool:
        """
        Remove the oldest entries of the kind that has more than half: of machines that were served, or of others.

        @return: whether there were any.
        """
        ((total, served),) = self._database.execute("SELECT count(*), coalesce(sum(served), 0) FROM events")
        oldest = "SELECT id FROM events WHERE served = ? ORDER BY id LIMIT ?"
        few = max(1, int(total * FREED))
        removed = self._database.execute(f"DELETE FROM events WHERE id IN ({oldest})", (served > total - served, few))
        return removed.rowcount > 0

    def find(self, query: Query) -> list[Found]:
        """
        Return what was asked for, the oldest first, in the order in which it was written.

        @raise sqlite3.Error: the file is damaged.
        """
        return _find(self._database, query)

    def close(self) -> None:
        """Close the file."""
        if self.waitsFor is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._moveToFile()
        self._database.close()


class _ProvenClock:
    """
    Tells whether the time of day can be trusted with what is removed by it: after a start, and after each change, it
    has to go on for a while as time passes.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # The time of day, and the instant at which it was that.
        self._last: tuple[float, float] | None = None
        self._provenAt = float("-inf")

    def isProven(self, now: float, steadyFor: Callable[[float], float]) -> bool:
        """
        Return whether it can be trusted.

        @param now: the time of day, seconds since 1970.
        @param steadyFor: -> for how many seconds it had gone on steadily when this process has begun.
        """
        instant = self._monotonic()
        if self._last is None:
            self._provenAt = instant + CLOCK_PROVEN - steadyFor(now)
        else:
            before, since = self._last
            if abs(now - before - (instant - since)) > CLOCK_CHANGE:
                self._provenAt = instant + CLOCK_PROVEN
        self._last = now, instant
        return instant >= self._provenAt


def _isDamage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error says that the file itself is damaged, and not that the disk is full or locked."""
    # SQLite's extended codes have the code in their lowest octet.
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _checkFile(path: str) -> None:
    """
    Make sure that there is a file that SQLite may open, which would say only that it cannot, and would follow a link
    that somebody has planted.

    A file that can be used is not opened for that: whoever closes one gives up all locks that this process has on it
    (POSIX), also those of an SQLite that has it open, as before a reload; another process would think that it is alone,
    and remove the log that is written to.

    @raise OSError: there is none.
    """
    if os.access(path, os.R_OK | os.W_OK, effective_ids=True) and not os.path.islink(path):
        checkBeside((path,))
    else:
        os.close(openOwn(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK))


def _reserveName(base: str) -> str:
    """
    Make an empty file at a name like this one that nothing has, to be replaced.

    @raise _NotYet: there is none.
    """
    for number in range(1, MOST_ASIDE + 1):
        name = base if number == 1 else f"{base}.{number}"
        if any(os.path.lexists(name + ending) for ending in _BESIDE):
            continue
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            return name
    raise _NotYet(f"it is unusable, and so are {base} to {base}.{MOST_ASIDE}: remove those that nobody needs")


def _isInUse(path: str) -> bool:
    """
    Return whether another process has an SQLite file open.  Where none has, all that was written to it is in the file
    itself from now on, and in no log beside it.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as database:
        try:
            database.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False  # it is damaged as well
    return False


def _identityOf(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; L{None}: it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: str) -> sqlite3.Connection:
    """
    Open a database and make its tables.

    Two processes write to it during an upgrade: each waits for the other's lock.

    @raise _OtherVersion: it is of another version.
    @raise sqlite3.DatabaseError: it is damaged.
    """
    database = sqlite3.connect(path, timeout=LOCK_WAIT, check_same_thread=False)
    try:
        ((version,),) = database.execute("PRAGMA user_version")
        if version not in (0, VERSION):
            raise _OtherVersion(f"its version is {version}, not {VERSION}")
        # A crash of the machine may lose the last seconds, and never damages the file.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        # The log beside the file keeps the size of the largest burst otherwise.
        database.execute(f"PRAGMA journal_size_limit = {LARGEST_LOG}")
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


def readFile(path: str, query: Query) -> list[Found]:
    """
    Read the file of a server that need not run.

    @raise sqlite3.Error: there is no such file, or it is damaged.
    """
    with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=LOCK_WAIT)) as database:
        return _find(database, query)


def _find(database: sqlite3.Connection, query: Query) -> list[Found]:
    wanted, values = ["1"], list[object]()
    if query.address is not None:
        condition, values = _ofMachine(storable(query.address))
        wanted.append(condition)
    for condition, value in (
        ("name GLOB ?", None if query.name is None else storable(query.name)),
        ("time >= ?", query.since),
        ("failed = ?", query.failed or None),
    ):
        if value is not None:
            wanted.append(condition)
            values.append(value)
    columns = ", ".join(KeptEvent._fields)
    # Not by time: what a clock that was years ahead has dated would be the latest for years.
    latest = "ORDER BY id DESC LIMIT ?"
    source = f"events WHERE {' AND '.join(wanted)}"
    if query.merged:
        # SQLite takes columns without an aggregate from the row that has the maximum.
        columns = columns.replace(" times,", " sum(times),") + ", max(id)"
        words = "'$.outcome', '$.verdict', '$.limit', '$.fault'"
        verdict = f"CASE WHEN json_valid(fields) THEN json_extract(fields, {words}) END"
        source = f"(SELECT * FROM {source} {latest}) GROUP BY address, name, event, {verdict}"
        values.append(MOST_MERGED)
    rows = database.execute(f"SELECT {columns} FROM {source} {latest}", (*values, query.limit)).fetchall()
    return [_found(KeptEvent(*row[: len(KeptEvent._fields)])) for row in reversed(rows)]


def _ofMachine(machine: str) -> tuple[str, list[object]]:
    """Return the condition that an event is about this machine, with the values in it."""
    if (mac := validMac(machine)) is not None:
        return "(address = ? OR (json_valid(fields) AND json_extract(fields, '$.mac') = ?))", [mac, mac]
    plain, (_, percent, zone) = plainAddress(machine), machine.partition("%")
    if plain is None or not plain.startswith("fe80:"):
        return "address = ?", [plain or machine]
    if percent:
        return "address = ?", [f"{plain}%{zone}"]
    # The same link-local address may be another machine's on another network, and is that with its zone in the log.
    return "(address = ? OR address GLOB ?)", [plain, f"{plain}%*"]


def _found(entry: KeptEvent) -> Found:
    event = json.loads(entry.fields)
    return {
        "time": showInstant(entry.time),
        "address": entry.address,
        "name": entry.name,
        "event": entry.event,
        "failed": bool(entry.failed),
        "times": entry.times,
        "message": asMessage(event),
        "fields": {key: value for key, value in event.items() if key != "log_format"},
    }
