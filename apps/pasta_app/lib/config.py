"""Settings of the server, from environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pasta.errors import PastaError


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of the server.

    Attributes:
        models: folder of model folders; None takes PASTA's default.
        device: that runs the networks where a request names none.
        queue: requests that may wait for the device; one more is answered 429.
        max_upload_bytes: largest request body.
        origins: web origins that may call the server from a browser.
    """

    models: Path | None
    device: str
    queue: int
    max_upload_bytes: int
    origins: tuple[str, ...]

    @classmethod
    def from_environment(cls) -> Config:
        """Read PASTA_MODELS, PASTA_DEVICE, PASTA_QUEUE, PASTA_MAX_UPLOAD_MB, PASTA_CORS_ORIGINS.

        Raises:
            PastaError: if a number is not one.
        """
        models = os.environ.get("PASTA_MODELS")
        origins = os.environ.get("PASTA_CORS_ORIGINS", "")
        return cls(
            models=Path(models) if models else None,
            device=os.environ.get("PASTA_DEVICE") or "auto",
            queue=_positive("PASTA_QUEUE", 8),
            max_upload_bytes=_positive("PASTA_MAX_UPLOAD_MB", 2048) * 1024 * 1024,
            origins=tuple(origin.strip() for origin in origins.split(",") if origin.strip()),
        )


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        msg = f"{name} is {text!r}, expected a whole number of 1 or more."
        raise PastaError(msg)
    return int(text)
