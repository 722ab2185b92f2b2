"""Errors as HTTP answers: a status and one sentence."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelException

from lib.jobs import BusyError
from lib.options import RequestError
from pasta.errors import (
    CancelledError,
    CheckpointError,
    LabelError,
    OutputError,
    PastaError,
    ReportError,
    StoreError,
    VolumeError,
)
from pasta.study.events import EventLogError

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

RETRY_SECONDS = 10
CLIENT_CLOSED = 499
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BusyError, 429),
    (RequestError, 422),
    (CancelledError, CLIENT_CLOSED),
    (CheckpointError, 503),
    (VolumeError, 422),
    (LabelError, 422),
    (ReportError, 422),
    (OutputError, 507),
    (EventLogError, 507),
    (StoreError, 422),
    (PastaError, 400),
)


def http_error(error: Exception) -> HTTPException:
    """Turn an error into an answer that says what to do; unforeseen ones say only that."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, MONAILabelException):
        return HTTPException(404 if "there is no" in error.msg.lower() else 400, error.msg)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            text = str(error)
            if isinstance(error, StoreError):
                status = _store_status(text)
            headers: Mapping[str, str] | None = None
            if status == 429:
                headers = {"Retry-After": str(RETRY_SECONDS)}
            return HTTPException(status, text, dict(headers) if headers else None)
    if isinstance(error, UnicodeEncodeError):  # of a text that a client sent in JSON
        return HTTPException(422, "a text holds half of a character (a lone surrogate).")
    _log.error("unforeseen error", exc_info=error)
    if _no_memory(error):
        return HTTPException(507, "the server ran out of memory; try fewer organs or the CPU.")
    return HTTPException(500, "the server failed in a way not foreseen; its log says where.")


def _no_memory(error: Exception) -> bool:
    """Tell whether memory ran out: PyTorch says so in errors of its own, by device."""
    name, text = type(error).__name__, str(error)
    allocation = isinstance(error, RuntimeError) and "allocate" in text and "memory" in text
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or allocation


def _store_status(text: str) -> int:
    if text.startswith("no "):  # no image ..., no label ...
        return 404
    return 409 if "is taken" in text else 422
