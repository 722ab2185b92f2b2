"""Mends of MONAI Label 0.8.5 with today's versions of what it uses, applied before the app starts.

`monailabel.app` is imported before any code of ours, so pins mend what breaks its import.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.utils.async_tasks.task import AsyncTask

if TYPE_CHECKING:
    from collections.abc import Callable

SWITCHED_OFF = (
    "MONAI_LABEL_TRACKING_ENABLED",  # mlflow >= 3.13 refuses its file store and training dies
    "MONAI_LABEL_AUTO_UPDATE_SCORING",  # starts a process, 10 s of CPU, with every next sample
    "MONAI_LABEL_DATASTORE_AUTO_RELOAD",  # its watcher is for its own store
)


class Rs256Only:
    """`jwt` as MONAI Label uses it: it forgets to say which algorithms it takes, so PyJWT 2 refuses.

    Keycloak signs with RS256; to take nothing else also keeps HS256 forgeries out.
    """

    def __init__(self, jwt: Any) -> None:
        self._decode = jwt.decode

    def decode(self, token: str, key: str, options: dict[str, Any] | None = None) -> Any:
        return self._decode(token, key, algorithms=["RS256"], options=options)


def copied(work: Callable[..., Any]) -> Callable[..., Any]:
    """Answer with a copy: MONAI Label hands out the very record that a thread goes on writing.

    Where that happens while the answer is made, the request ends with 500 though the task runs.
    """

    @functools.wraps(work)
    def answer(*arguments: Any, **keywords: Any) -> Any:
        return _copy(work(*arguments, **keywords))

    answer.copies = True  # type: ignore[attr-defined]
    return answer


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in list(value.items())}  # list: at one moment
    if isinstance(value, list | tuple):
        return type(value)(_copy(inner) for inner in list(value))
    return value


def apply() -> None:
    """Apply all mends, to this process and to those it starts; once is enough."""
    for name in SWITCHED_OFF:
        setattr(settings, name, False)
        os.environ[name] = "false"
    if not isinstance(auth.jwt, Rs256Only):
        auth.jwt = Rs256Only(auth.jwt)
    for name in ("run", "status"):
        if not hasattr(getattr(AsyncTask, name), "copies"):
            setattr(AsyncTask, name, staticmethod(copied(getattr(AsyncTask, name))))
