"""The audit log: one JSON line a request; who did what to which case, and nothing that names anyone.

Names are pseudonyms from the file of tokens, or made from an identity provider's subject. Cases are
ids of the store, and only those that it has: what a client made up is not written.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pasta.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


class Audit:
    """Appends lines to a file; it may be moved away at any time, a new one is begun then.

    Args:
        path: of the file.

    Raises:
        OutputError: if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            msg = f"{path.name}: the audit log cannot be written ({error.strerror}); see access.audit."
            raise OutputError(msg) from error

    def note(
        self, *, request: str, user: str, role: str, action: str, case: str, status: int
    ) -> None:
        """Append one line.

        Args:
            request: id, as the answer's header X-Request-ID has it.
            user: pseudonym, "" for nobody known.
            role: "reader", "coordinator", "admin" or "".
            action: method and route, such as "PUT /datastore/label".
            case: id in the store, or "".
            status: of the answer.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": request,
            "user": user,
            "role": role,
            "action": action,
            "case": case,
            "status": status,
        }
        line = f"{json.dumps(entry)}\n".encode()
        try:
            with self._guard:
                descriptor = self._open()
                try:
                    os.write(descriptor, line)  # one call: lines of two processes do not mix
                finally:
                    os.close(descriptor)
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error.strerror)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
