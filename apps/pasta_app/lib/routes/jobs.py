"""/pasta/...: health, images and the progress of jobs."""

from typing import Any

from fastapi import APIRouter, Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.service import Service
from pasta import RESEARCH_USE_ONLY, __version__


def router(service: Service) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/pasta", tags=["PASTA-AID"])
    reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

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

    @routes.get("/images", summary="Images of the store and their labels")
    def images(_user: User = reader) -> dict[str, Any]:
        found = service.store.images()
        labels: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in found}
        for record in service.store.labels():
            if record.image in labels:
                labels[record.image].append(
                    {"tag": record.tag, "reader": record.reader, "version": record.version}
                )
        listed = [
            {"id": image.id, "kind": image.kind, "labels": labels[image.id]}
            for image in sorted(found.values(), key=lambda image: image.id)
        ]
        return {"images": listed}

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
