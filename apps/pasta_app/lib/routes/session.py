"""/session/...: a CT that is sent once and used for a while."""

import secrets
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, File, HTTPException, UploadFile
from monailabel.config import settings as monai
from monailabel.endpoints.user.auth import RBAC, User

from lib.archives import unpack
from lib.service import Service, received
from pasta.settings import Settings

LONGEST_SERIES = 5000


def router(service: Service, settings: Settings) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/session", tags=["Session"])
    reader = Depends(RBAC(monai.MONAI_LABEL_AUTH_ROLE_USER))

    @routes.put("/", summary="Send a CT: one file, or the slices of a DICOM series")
    def create(
        uncompress: bool = False,
        expiry: int = 0,
        files: list[UploadFile] = File(...),
        _user: User = reader,
    ) -> dict[str, Any]:
        if uncompress and "archives" not in settings.switches:
            raise HTTPException(422, "archives are not unpacked; send the files one by one.")
        if uncompress and len(files) != 1:
            raise HTTPException(422, "send one archive, or the files one by one.")
        if not 0 <= expiry <= monai.MONAI_LABEL_SESSION_EXPIRY:
            limit = monai.MONAI_LABEL_SESSION_EXPIRY
            raise HTTPException(422, f"expiry must be 0 to {limit} seconds.")
        if len(files) > LONGEST_SERIES:
            raise HTTPException(422, f"more than {LONGEST_SERIES} files; send one series.")
        with service.private.job() as folder:
            if uncompress:
                path = _new_series(folder)
                unpack(files[0].file, path, LONGEST_SERIES, settings.max_upload_bytes)
            else:
                path = _one(files[0], folder) if len(files) == 1 else _series(files, folder)
            session_id, info = service.sessions.add_session(str(path), expiry)
        return {"session_id": session_id, "session_info": _shown(info)}

    @routes.get("/{session_id}", summary="Look a session up")
    def get(session_id: str, update_ts: bool = False, _user: User = reader) -> dict[str, Any]:
        found = service.sessions.get_session(session_id, update_ts)
        if found is None:
            raise HTTPException(404, f"no session {session_id[:60]!r}; it may have expired.")
        return _shown(found)

    @routes.delete("/{session_id}", summary="End a session")
    def remove(session_id: str, _user: User = reader) -> dict[str, Any]:
        found = service.sessions.get_session(session_id)
        if found is None:
            raise HTTPException(404, f"no session {session_id[:60]!r}; it may have expired.")
        service.sessions.remove_session(session_id)
        return _shown(found)

    return routes


def _one(file: UploadFile, folder: Path) -> Path:
    return received(file.file, file.filename, folder, "image")


def _series(files: list[UploadFile], folder: Path) -> Path:
    series = _new_series(folder)
    for number, file in enumerate(files):
        with (series / f"{number:05d}.dcm").open("xb") as target:
            while chunk := file.file.read(1 << 20):
                target.write(chunk)
    return series


def _new_series(folder: Path) -> Path:
    series = folder / f"series-{secrets.token_hex(4)}"
    series.mkdir()
    return series


def _shown(info: Any) -> dict[str, Any]:
    """What a client may know of a session: no paths of the server."""
    return {
        "name": info.name,
        "create_ts": info.create_ts,
        "last_access_ts": info.last_access_ts,
        "expiry": info.expiry,
    }
