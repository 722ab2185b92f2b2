"""/datastore/...: images and labels in and out, each checked before it is accepted."""

import contextlib
import secrets
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Response, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.background import BackgroundTask

from lib.datastore import PastaDatastore, label_id_of, split_label_id
from lib.options import RequestError
from lib.service import Service, info_of, received
from pasta.errors import PastaError
from pasta.io import read_volume
from pasta.io.nifti import write_nifti
from pasta.report.reader import checked_reader_report
from pasta.store import LabelRecord
from pasta.store.names import stem_of


def router(service: Service) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/datastore", tags=["Datastore"])
    store = service.store
    user_role = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    @routes.put("/", include_in_schema=False)
    @routes.put("/image", summary="Upload a CT")
    def add_image(
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),
        _user: User = annotator,
    ) -> dict[str, str]:
        info = info_of(params)
        with service.private.job() as folder:
            path = received(file.file, file.filename, folder, "image")
            wanted = image or stem_of(Path(file.filename or "image").name)
            return {"image": store.add_image(path, wanted, info)}

    @routes.delete("/", include_in_schema=False)
    @routes.delete("/image", summary="Take an uploaded CT out of the store")
    def remove_image(image_id: str = Query(alias="id"), _user: User = admin) -> dict[str, str]:
        store.remove_image(image_id)
        return {}

    @routes.head("/image", summary="Check that a CT is there")
    def check_image(image: str, _user: User = user_role) -> Response:
        store.image(image)
        return Response()

    @routes.get("/image", summary="Download a CT")
    def download_image(image: str, _user: User = user_role) -> FileResponse:
        found = store.image(image)
        if found.kind == "file" or found.path.is_file():
            suffix = found.path.name[len(stem_of(found.path.name)) :]
            return FileResponse(found.path, filename=f"{image}{suffix}")
        path = service.private.path / f"download-{secrets.token_hex(8)}.nii.gz"
        write_nifti(read_volume(found.path), path)
        return FileResponse(
            path,
            filename=f"{image}.nii.gz",
            background=BackgroundTask(path.unlink, missing_ok=True),
        )

    @routes.get("/image/info", summary="What is known of a CT")
    def image_info(image: str, _user: User = user_role) -> dict[str, Any]:
        return store.image_info(image)

    @routes.put("/image/info", summary="Note something on a CT")
    def update_image_info(
        image: str, info: str = Form("{}"), _user: User = annotator
    ) -> dict[str, Any]:
        store.update_image_info(image, info_of(info))
        return store.image_info(image)

    @routes.put("/label", summary="Save a label; earlier versions stay")
    def save_label(
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),
        user: User = annotator,
    ) -> dict[str, Any]:
        info = info_of(params)
        reader = info.pop("reader", None) or info.get("client_id") or _named(user)
        expected = _version(info.pop("expected_version", None))
        seen = _seen(info.pop("seen", None))
        if "report" in info:
            info["report"] = checked_reader_report(info["report"])
        with service.private.job() as folder:
            path = received(label.file, label.filename, folder, "label")
            record = store.save_label(image, path, tag=tag or "final", reader=reader, info=info)
        answer: dict[str, Any] = {
            "image": image,
            "label": label_id_of(record),
            "tag": record.tag,
            "reader": record.reader,
            "version": record.version,
            "created": record.created,
            "sha256": record.sha256,
            "values": list(record.values),
        }
        if expected is not None:
            found = record.replaced
            conflict = {"expected": expected, "found": found} if found != expected else None
            answer["conflict"] = conflict
        if seen is not None:
            answer["others"] = _others(record, seen)
        return answer

    @routes.delete("/label", summary="Withdraw a label; its versions stay")
    def remove_label(
        tag: str, label_id: str = Query(alias="id"), _user: User = admin
    ) -> dict[str, str]:
        image, reader = split_label_id(label_id)
        store.remove_label(image, tag, reader)
        return {}

    @routes.head("/label", summary="Check that a label is there")
    def check_label(image: str, tag: str, _user: User = user_role) -> Response:
        _label(image, tag)
        return Response()

    @routes.get("/label", summary="Download a label")
    def download_label(
        label: str, tag: str, version: int | None = None, _user: User = user_role
    ) -> FileResponse:
        record = _label(label, tag, version)
        path = store.label_path(record)
        if not path.is_file():
            raise HTTPException(404, f"the file of label {label!r} is gone from the store.")
        return FileResponse(path, filename=f"{record.image}.{record.tag}.nii.gz")

    @routes.get("/label/info", summary="What is known of a label")
    def label_info(
        label: str, tag: str, version: int | None = None, _user: User = user_role
    ) -> dict[str, Any]:
        record = _label(label, tag, version)
        document = record.document()
        info = {**document.pop("info"), **document}
        with contextlib.suppress(PastaError):  # of a CT that is damaged now, no grid is told
            grid = store.grid(record.image)
            info |= {"shape": list(grid.shape), "affine": grid.affine.tolist()}
        return info

    @routes.put("/label/info", summary="Note something on a label")
    def update_label_info(
        label: str, tag: str, info: str = Form("{}"), _user: User = annotator
    ) -> dict[str, Any]:
        image, reader = split_label_id(label)
        store.update_label_info(image, tag, reader, info_of(info))
        return _label(label, tag).document()

    @routes.get("/dataset", summary="Download images with their final labels as ZIP")
    def dataset(limit_cases: int | None = None, _user: User = annotator) -> FileResponse:
        path = Path(PastaDatastore(store).get_dataset_archive(limit_cases))
        return FileResponse(
            path, filename="dataset.zip", background=BackgroundTask(path.unlink, missing_ok=True)
        )

    def _label(label_id: str, tag: str, version: int | None = None) -> LabelRecord:
        image, reader = split_label_id(label_id)
        current = store.label(image, tag, reader)
        if version in (None, current.version):
            return current
        for record in store.history(image, tag, current.reader):
            if record.version == version and not record.withdrawn:
                return record
        raise HTTPException(404, f"label {label_id!r} has no version {version}.")

    def _others(mine: LabelRecord, seen: dict[str, int]) -> list[dict[str, Any]]:
        """Who else saved under the tag since a client looked; models do not count."""
        return [
            {"reader": record.reader, "version": record.version, "created": record.created}
            for record in store.labels(mine.image)
            if record.tag == mine.tag
            and record.reader != mine.reader
            and record.reader not in service.tasks
            and record.version > seen.get(record.reader, 0)
        ]

    return routes


def _named(user: User) -> str:
    return user.username if settings.MONAI_LABEL_AUTH_ENABLE else "anonymous"


def _version(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        msg = "expected_version must be a whole number: the version you last saw, 0 for none."
        raise RequestError(msg)
    return given


def _seen(given: object) -> dict[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        msg = 'seen must name the versions you saw by reader, such as {"R1": 2}.'
        raise RequestError(msg)
    return {str(reader): _version(version) or 0 for reader, version in given.items()}
