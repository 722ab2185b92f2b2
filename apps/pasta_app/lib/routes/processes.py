"""/activelearning, /train, /scoring, /batch: checked before MONAI Label's own code sees them."""

import time
from typing import Any

from fastapi import APIRouter, Body, Depends, HTTPException
from monailabel.config import settings as monai
from monailabel.endpoints import batch_infer, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from lib.options import RequestError
from lib.service import Service, storable
from pasta.settings import Settings

# a bundle_path goes into PYTHONPATH of the process that is started: it runs what a client sent
BUNDLE = "bundle_path"
NEVER = ("model", "image", "method", "logging")


def router(service: Service, settings: Settings) -> APIRouter:
    """Build the routes."""
    routes = APIRouter()
    never = NEVER if BUNDLE in settings.switches else (*NEVER, BUNDLE)
    reader = Depends(RBAC(monai.MONAI_LABEL_AUTH_ROLE_USER))
    admin = Depends(RBAC(monai.MONAI_LABEL_AUTH_ROLE_ADMIN))

    @routes.post("/activelearning/{strategy}", summary="Next image to label")
    def sample(
        strategy: str, params: dict[str, Any] | None = Body(None), user: User = reader
    ) -> dict[str, Any]:
        app = app_instance()
        _known("strategy", strategy, app.info()["strategies"])
        given = _clean(params)
        found: dict[str, Any] = app.next_sample({**given, "strategy": strategy})
        if not found:
            return {}
        image = found["id"]
        shown = service.store.image_info(image).get("strategy", {})
        shown[strategy] = {
            "ts": int(time.time()),
            "client_id": given.get("client_id", user.username),
        }
        service.store.update_image_info(image, {"strategy": shown})
        return {**service.store.image_info(image), **found}

    @routes.post("/train/{model}", summary="Train a model")
    def train_model(
        model: str,
        params: dict[str, Any] | None = Body(None),
        enqueue: bool = False,
        _user: User = admin,
    ) -> Any:
        _known("trainer", model, app_instance().info()["trainers"])
        return train.run_model(model, _clean(params), False, enqueue)

    @routes.post("/train/", include_in_schema=False)
    def train_all(params: dict[str, Any] | None = Body(None), _user: User = admin) -> Any:
        return train.run(_clean(params), False)

    @routes.post("/scoring/{method}", summary="Run a scoring method")
    def score(method: str, _user: User = admin) -> Any:
        _known("scoring method", method, app_instance().info()["scoring"])
        return app_instance().async_scoring(method)

    @routes.post("/batch/infer/{model}", summary="Run a task on many images")
    def batch(
        model: str,
        images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
        params: dict[str, Any] | None = Body(None),
        _user: User = admin,
    ) -> Any:
        task = service.task(model)
        refusal = task.refusal()
        if refusal:
            raise HTTPException(503, refusal)
        given = _clean(params)
        allowed = {"device", "label_tag", "max_batch_size", "resume", "save_label"}
        for name in given:
            if name not in allowed:
                msg = f"parameter {name[:60]!r} is not allowed; allowed are {', '.join(allowed)}."
                raise RequestError(msg)
        # one process at a time, and no GPU count that divides by zero on a CPU box
        given = {
            **given,
            "multi_gpu": False,
            "max_workers": 1,
            "device": given.get("device", "cpu"),
        }
        return batch_infer.run(model, images, given)

    def _clean(params: dict[str, Any] | None) -> dict[str, Any]:
        return _cleaned(params, never)

    return routes


def _cleaned(params: dict[str, Any] | None, never: tuple[str, ...]) -> dict[str, Any]:
    for name in params or {}:
        if name in never:
            msg = f"parameter {name!r} is not allowed."
            raise RequestError(msg)
    return storable(params or {})


def _known(kind: str, name: str, known: Any) -> None:
    if name not in known:
        there = ", ".join(known) or "none"
        raise HTTPException(404, f"no {kind} {name[:60]!r}; there are: {there}.")
