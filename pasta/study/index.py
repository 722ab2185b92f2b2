"""An index of a study in SQLite: a cache of the logs, never the record. Standard library only.

It can be thrown away at any time; `Index.rebuild` makes it anew from logs alone.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

INDEX_FILE = "index.sqlite"
_SCHEMA_VERSION = 2
# INDEXED BY: else SQLite looks through whole sessions for each read, 40 s for 4,320 of them
_SCHEMA = """
CREATE TABLE logs (log TEXT PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, events INTEGER);
CREATE TABLE events (
    log TEXT, seq INTEGER, type TEXT, reader TEXT, arm TEXT, task TEXT, organ TEXT, "case" TEXT,
    position INTEGER, boot_id TEXT, mono_ns INTEGER, utc TEXT, payload TEXT, sha256 TEXT,
    PRIMARY KEY (log, seq)
) WITHOUT ROWID;
CREATE INDEX events_by_type ON events (type, log);
CREATE INDEX events_by_case ON events ("case", type, log);
CREATE VIEW sessions AS
SELECT payload ->> 'session' AS session_id, payload ->> 'reader' AS reader,
    payload ->> 'block' AS block, payload ->> 'arm' AS arm, utc AS begun_utc,
    (SELECT e.utc FROM events e WHERE e.log = 'server' AND e.type IN ('logout', 'takeover')
        AND e.payload ->> 'session' = s.payload ->> 'session') AS ended_utc,
    (SELECT e.payload ->> 'reason' FROM events e
        WHERE e.log = 'server' AND e.type IN ('logout', 'takeover')
        AND e.payload ->> 'session' = s.payload ->> 'session') AS reason,
    coalesce((SELECT l.events FROM logs l WHERE l.log = s.payload ->> 'session'), 0) AS events
FROM events s WHERE s.log = 'server' AND s.type = 'login';
CREATE VIEW answers AS
SELECT payload ->> 'block' AS block, "case", payload ->> 'version' AS version,
    payload ->> 'reader' AS reader, payload ->> 'session' AS session_id,
    payload ->> 'status' AS status, payload ->> 'training' AS training,
    payload ->> 'seconds' AS seconds, payload ->> 'server_seconds' AS server_seconds,
    position, utc,
    row_number() OVER (
        PARTITION BY payload ->> 'block', "case"
        ORDER BY payload ->> 'status' = 'interrupted', seq
    ) = 1 AS counts
FROM events WHERE log = 'server' AND type = 'answer_received';
CREATE VIEW reads AS
SELECT a.*, e.payload AS timing,
    (SELECT count(*) FROM events x INDEXED BY events_by_case WHERE x.log = a.session_id
        AND x."case" = a."case" AND x.type = 'suspend_detected') AS suspends,
    (SELECT count(*) FROM events x INDEXED BY events_by_case WHERE x.log = 'server'
        AND x."case" = a."case" AND x.type = 'case_assigned'
        AND x.payload ->> 'block' = a.block) - 1 AS interruptions
FROM answers a LEFT JOIN events e INDEXED BY events_by_case
    ON e.log = a.session_id AND e."case" = a."case"
    AND e.type IN ('case_complete', 'case_skip')
WHERE a.counts
GROUP BY a.block, a."case";
"""
_COLUMNS = (
    "seq",
    "type",
    "reader",
    "arm",
    "task",
    "organ",
    "case",
    "position",
    "boot_id",
    "mono_ns",
    "utc",
    "payload",
    "sha256",
)


class Index:
    """The index of one study; safe with several threads.

    Tables: `logs` (one row a file), `events` (one row a line; the server's own have log "server").
    Views: `sessions`, `answers` (every version), `reads` (the answer that counts, with its timing).

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX_FILE
        self._logs = folder / "logs"
        self._guard = threading.RLock()

    def rebuild(self) -> int:
        """Make the index anew from the logs; return the number of events."""
        with self._guard:
            for suffix in ("", "-wal", "-shm", "-journal"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            return self.update()

    def update(self) -> int:
        """Take in what the logs have more; a log that was changed otherwise is read anew.

        Returns:
            Number of events in the index.
        """
        with self._guard:
            try:
                return self._update()
            except sqlite3.DatabaseError:  # damaged, or of another version: it is only a cache
                for suffix in ("", "-wal", "-shm", "-journal"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                return self._update()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Answer a query on the index as it is, after `update`."""
        with self._guard, self._connection() as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

    def _update(self) -> int:
        with self._connection() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError(_SCHEMA_VERSION)
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            known = {
                log: (size, mtime, count)
                for log, size, mtime, count in connection.execute("SELECT * FROM logs")
            }
            paths = {path.stem: path for path in sorted(self._logs.glob("*.jsonl"))}
            for log in known.keys() - paths.keys():
                _forget(connection, log)
            for log, path in paths.items():
                stat = path.stat()
                size, mtime, count = known.get(log, (0, 0, 0))
                if (size, mtime) == (stat.st_size, stat.st_mtime_ns):
                    continue
                if stat.st_size <= size or not _ends_a_line(path, size):
                    _forget(connection, log)
                    size = count = 0
                size, added = _take_in(connection, log, path, size)
                values = (log, size, stat.st_mtime_ns, count + added)
                connection.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", values)
            found = connection.execute("SELECT count(*) FROM events").fetchone()[0]
            connection.commit()
            return int(found)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            yield connection
        finally:
            connection.close()


def _take_in(connection: sqlite3.Connection, log: str, path: Path, offset: int) -> tuple[int, int]:
    """Insert the whole lines from a point on; return where they end, and how many were events."""
    marks = ", ".join("?" * (1 + len(_COLUMNS)))
    added = 0
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            try:
                event = json.loads(line)
                row = [event[name] for name in _COLUMNS]
            except (ValueError, KeyError, TypeError):
                continue  # `pasta.study.archive.check` tells of it
            row[_COLUMNS.index("payload")] = json.dumps(event["payload"], sort_keys=True)
            statement = f"INSERT OR REPLACE INTO events VALUES ({marks})"  # noqa: S608
            connection.execute(statement, (log, *row))
            added += 1
    return offset, added


def _forget(connection: sqlite3.Connection, log: str) -> None:
    connection.execute("DELETE FROM events WHERE log = ?", (log,))
    connection.execute("DELETE FROM logs WHERE log = ?", (log,))


def _ends_a_line(path: Path, offset: int) -> bool:
    if offset == 0:
        return True
    with path.open("rb") as file:
        file.seek(offset - 1)
        return file.read(1) == b"\n"
