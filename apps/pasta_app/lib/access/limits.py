"""How many requests a minute."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_KEYS = 10_000


class RateLimit:
    """A bucket for each key: it holds a minute's requests, and fills again as time goes.

    Args:
        per_minute: requests.
        now: monotonic clock, seconds.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._now = per_minute, now
        self._guard = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def seconds(self, key: str) -> int:
        """Take one; 0, or how many seconds to wait for the next."""
        with self._guard:
            now, rate = self._now(), self._per_minute / 60
            left, since = self._buckets.pop(key, (float(self._per_minute), now))
            left = min(left + (now - since) * rate, float(self._per_minute))
            wait = 0 if left >= 1 else int((1 - left) / rate) + 1
            self._buckets[key] = (left if wait else left - 1, now)
            if len(self._buckets) > _MOST_KEYS:  # the one that was idle longest
                del self._buckets[next(iter(self._buckets))]
            return wait
