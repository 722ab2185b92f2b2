"""Settings of the server, from environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pasta.errors import PastaError

_SHORTEST_TOKEN = 12


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of the server.

    Attributes:
        models: folder of model folders; None takes PASTA's default.
        device: that runs the networks where a request names none.
        queue: requests that may wait for the device; one more is answered 429.
        max_upload_bytes: largest request body.
        origins: web origins that may call the server from a browser.
        study: folder of a reader study, or of several; None for a server without.
        admin_token: of the coordinators; "" makes one up and keeps it in that folder.
        pacs_user: for a PACS as studies; "" for none.
        pacs_password: of that user.
        pacs_token: bearer token for the PACS, instead of both.
        pacs_authorities: file of certificate authorities for HTTPS; None for the usual ones.
        pacs_cache: folder for its series and our labels; None for one in the user's data home.
    """

    models: Path | None
    device: str
    queue: int
    max_upload_bytes: int
    origins: tuple[str, ...]
    study: Path | None = None
    admin_token: str = field(default="", repr=False)
    pacs_user: str = ""
    pacs_password: str = field(default="", repr=False)
    pacs_token: str = field(default="", repr=False)
    pacs_cache: Path | None = None
    pacs_authorities: Path | None = None

    @classmethod
    def from_environment(cls) -> Config:
        """Read PASTA_MODELS, PASTA_DEVICE, PASTA_QUEUE, PASTA_MAX_UPLOAD_MB, PASTA_CORS_ORIGINS.

        PASTA_STUDY and PASTA_ADMIN_TOKEN are for a server that runs reader studies; PASTA_PACS_USER,
        PASTA_PACS_PASSWORD, PASTA_PACS_TOKEN, PASTA_PACS_CA and PASTA_PACS_CACHE for one whose studies
        are a PACS.

        Raises:
            PastaError: if a number is not one, or a token is too short to keep anybody out.
        """
        models, study = os.environ.get("PASTA_MODELS"), os.environ.get("PASTA_STUDY")
        token = os.environ.get("PASTA_ADMIN_TOKEN", "").strip()
        if token and len(token) < _SHORTEST_TOKEN:
            msg = f"PASTA_ADMIN_TOKEN is too short; give {_SHORTEST_TOKEN} characters or more."
            raise PastaError(msg)
        origins = os.environ.get("PASTA_CORS_ORIGINS", "")
        return cls(
            models=Path(models) if models else None,
            device=os.environ.get("PASTA_DEVICE") or "auto",
            queue=_positive("PASTA_QUEUE", 8),
            max_upload_bytes=_positive("PASTA_MAX_UPLOAD_MB", 2048) * 1024 * 1024,
            origins=tuple(origin.strip() for origin in origins.split(",") if origin.strip()),
            study=Path(study) if study else None,
            admin_token=token,
            pacs_user=os.environ.get("PASTA_PACS_USER", ""),
            pacs_password=os.environ.get("PASTA_PACS_PASSWORD", ""),
            pacs_token=os.environ.get("PASTA_PACS_TOKEN", ""),
            pacs_authorities=Path(ca) if (ca := os.environ.get("PASTA_PACS_CA")) else None,
            pacs_cache=Path(cache) if (cache := os.environ.get("PASTA_PACS_CACHE")) else None,
        )


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        msg = f"{name} is {text!r}, expected a whole number of 1 or more."
        raise PastaError(msg)
    return int(text)
