"""/datastore/...: images and labels in and out, each checked before it is accepted."""

import secrets
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Response, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.background import BackgroundTask

from lib.datastore import PastaDatastore, label_id_of, split_label_id
from lib.service import Service, info_of, received
from pasta.io import read_volume
from pasta.io.nifti import write_nifti
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
        with service.private.job() as folder:
            path = received(label.file, label.filename, folder, "label")
            record = store.save_label(image, path, tag=tag or "final", reader=reader, info=info)
        return {
            "image": image,
            "label": label_id_of(record),
            "tag": record.tag,
            "reader": record.reader,
            "version": record.version,
        }

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
    def download_label(label: str, tag: str, _user: User = user_role) -> FileResponse:
        record = _label(label, tag)
        path = store.label_path(record)
        if not path.is_file():
            raise HTTPException(404, f"the file of label {label!r} is gone from the store.")
        return FileResponse(path, filename=f"{record.image}.{record.tag}.nii.gz")

    @routes.get("/label/info", summary="What is known of a label")
    def label_info(label: str, tag: str, _user: User = user_role) -> dict[str, Any]:
        document = _label(label, tag).document()
        return {**document.pop("info"), **document}

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

    def _label(label_id: str, tag: str) -> Any:
        image, reader = split_label_id(label_id)
        return store.label(image, tag, reader)

    return routes


def _named(user: User) -> str:
    return user.username if settings.MONAI_LABEL_AUTH_ENABLE else "anonymous"
