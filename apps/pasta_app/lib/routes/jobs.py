"""/pasta/...: health, images and the progress of jobs."""

from typing import Any

from fastapi import APIRouter, Body, Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.datastore import FINAL
from lib.service import Service
from pasta import RESEARCH_USE_ONLY, __version__
from pasta.store import LabelRecord, checked_name
from pasta.store.names import stem_of


def router(service: Service) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/pasta", tags=["PASTA-AID"])
    reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))

    @routes.get("/health", summary="Whether the server and its tasks are ready")
    def health() -> dict[str, Any]:
        refusals = {name: task.refusal() for name, task in service.tasks.items()}
        return {
            "status": "ok",
            "version": __version__,
            "notice": RESEARCH_USE_ONLY,
            "models": {
                name: {"ready": not reason, "reason": reason} for name, reason in refusals.items()
            },
        }

    @routes.get("/images", summary="Images of the store, their labels and who reads them")
    def images(tag: str = FINAL, _user: User = reader) -> dict[str, Any]:
        found = service.store.images()
        labels: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in found}
        for record in service.store.labels():
            if record.image in labels:
                labels[record.image].append(_label_document(record))
        return {
            "images": [
                {
                    "id": image.id,
                    "kind": image.kind,
                    "labels": labels[image.id],
                    **_status(service, image.id, labels[image.id], tag),
                }
                for image in sorted(found.values(), key=lambda image: image.id)
            ]
        }

    @routes.get("/images/{image}", summary="One image: grid, hash, labels, who reads it")
    def image(image: str, tag: str = FINAL, _user: User = reader) -> dict[str, Any]:
        found, grid = service.store.image(image), service.store.grid(image)
        labels = [_label_document(record) for record in service.store.labels(image)]
        sha256 = service.store.sha256(image)
        whole = found.path.is_file()  # else it is a series, sent as one NIfTI file
        suffix = found.path.name[len(stem_of(found.path.name)) :] if whole else ".nii.gz"
        return {
            "id": found.id,
            "kind": found.kind,
            "sha256": sha256,
            "download": {"suffix": suffix, "sha256": sha256 if whole else None},
            "shape": list(grid.shape),
            "affine": grid.affine.tolist(),
            "labels": labels,
            **_status(service, image, labels, tag),
        }

    @routes.post("/images/{image}/reading", summary="Mark a CT as being read")
    def begin_reading(
        image: str, mark: dict[str, Any] | None = Body(None), user: User = annotator
    ) -> dict[str, Any]:
        service.store.image(image)
        service.readings.begin(image, _reader((mark or {}).get("reader"), user))
        labels = [_label_document(record) for record in service.store.labels(image)]
        return {"id": image, "labels": labels, "in_work": service.readings.of(image)}

    @routes.delete("/images/{image}/reading", summary="Take the mark away")
    def end_reading(
        image: str, reader: str | None = None, user: User = annotator
    ) -> dict[str, Any]:
        service.store.image(image)
        service.readings.release(image, _reader(reader, user))
        return {"id": image, "in_work": service.readings.of(image)}

    @routes.get("/jobs", summary="Jobs under way and lately done")
    async def jobs(_user: User = reader) -> dict[str, Any]:
        return service.jobs.document()

    @routes.get("/jobs/{job}", summary="How far a job is")
    async def job(job: str, _user: User = reader) -> dict[str, Any]:
        found = service.jobs.get(job)
        if found is None:
            raise HTTPException(404, f"no job {job[:60]!r}; the server may not have begun it.")
        return found

    @routes.delete("/jobs/{job}", summary="Stop a job")
    async def cancel(job: str, _user: User = reader) -> dict[str, Any]:
        if not service.jobs.cancel(job):
            raise HTTPException(404, f"no job {job[:60]!r}; the server may not have begun it.")
        return service.jobs.get(job) or {}

    return routes


def _label_document(record: LabelRecord) -> dict[str, Any]:
    return {
        "tag": record.tag,
        "reader": record.reader,
        "version": record.version,
        "created": record.created,
        "sha256": record.sha256,
    }


def _status(service: Service, image: str, labels: list[dict[str, Any]], tag: str) -> dict[str, Any]:
    """Tell how far a case is: done once anybody saved under the tag."""
    marks = service.readings.of(image)
    done = any(label["tag"] == tag for label in labels)
    return {"status": "done" if done else "in work" if marks else "new", "in_work": marks}


def _reader(given: object, user: User) -> str:
    named = user.username if settings.MONAI_LABEL_AUTH_ENABLE else "anonymous"
    return checked_name("reader", given or named)
