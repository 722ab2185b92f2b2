"""Sessions: CTs that clients send for a while, not into the store."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import SessionInfo, Sessions

_ID = re.compile(r"[0-9a-f]{32}")


class PrivateSessions(Sessions):
    """MONAI Label's sessions with ids nobody guesses, and a cleanup that cleans up.

    The stock class is falsy while empty, so that its own cleanup skips it, stumbles over a folder
    without metadata, and takes ids that climb out of its folder.
    """

    def __bool__(self) -> bool:
        return True

    def purge(self) -> None:
        """Remove what an earlier run left."""
        shutil.rmtree(self.store_path, ignore_errors=True)
        Path(self.store_path).mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        if not _ID.fullmatch(session_id):
            return None
        found = super().get_session(session_id, update_ts, fetch_cache)
        if found is not None and found.last_access_ts + found.expiry < time.time():
            self.remove_session(session_id)
            return None
        return found

    def remove_session(self, session_id: str) -> None:
        if _ID.fullmatch(session_id):
            super().remove_session(session_id)

    def add_session(self, data_file: str, expiry: int = 0, *_args: Any, **_kwargs: Any) -> Any:
        return super().add_session(data_file, expiry, False, secrets.token_hex(16))

    def remove_expired(self) -> int:
        removed = 0
        for folder in Path(self.store_path).iterdir():
            known = None
            with contextlib.suppress(OSError, ValueError):
                known = super().get_session(folder.name, update_ts=False, fetch_cache=False)
            young = time.time() - folder.stat().st_mtime < 60  # may be in the making
            if (known is None and not young) or (
                known is not None and known.last_access_ts + known.expiry < time.time()
            ):
                self.pop(folder.name, None)
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed
