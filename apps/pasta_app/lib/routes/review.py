"""GET /pasta/review: the cases to look at first; GET /pasta/batches: how far batches are."""

from typing import Any

from fastapi import APIRouter, Depends, Query
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.batches import batches
from lib.service import Service
from pasta.evaluation.review import review_queue


def router(service: Service) -> APIRouter:
    """Build the route."""
    routes = APIRouter(prefix="/pasta", tags=["PASTA-AID"])
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))  # readers stay blind to each other

    @routes.get("/review", summary="Cases by disagreement between their labels, most first")
    def review(
        tag: list[str] = Query(["original", "final"]),
        reader: list[str] | None = Query(None),
        limit: int = Query(200, ge=1, le=10000),
        _user: User = admin,
    ) -> dict[str, Any]:
        found = review_queue(service.store, tag, reader)
        return {"total": len(found), "queue": [pair.document() for pair in found[:limit]]}

    @routes.get("/batches", summary="Batch inference: percent, what failed and why")
    def progress(_user: User = admin) -> dict[str, Any]:
        return {"batches": batches(service.store)}

    return routes
