"""Batch inference over the store: goes on after a restart, tells how far it is, survives a bad image."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from pasta.errors import PastaError
from pasta.store.names import checked_name
from pasta.store.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from monailabel.interfaces.datastore import Datastore

    from lib.models import Models
    from pasta.store import Store

_log = logging.getLogger(__name__)
_FOLDER = "batches"  # of the store's own


class StoreBatch(BatchInferTask):
    """Run a task on many images, one after the other; masks and JSON are kept in the store.

    After each image the record says what is done, by which weights and on which bytes. With the
    parameter `resume` such images are passed over, so a stopped server loses one image at most.
    """

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models

    def __call__(
        self,
        request: dict[str, Any],
        datastore: Datastore,
        infer: Callable[[dict[str, Any], Datastore], dict[str, Any]],
    ) -> dict[str, Any]:
        model = str(request["model"])
        tag = checked_name("tag", request.get("label_tag") or "original")
        images = sorted(self.get_images(request, datastore))
        images = images[: int(request.get("max_batch_size") or 0) or None]
        path = record_path(self._store, model, tag)
        weights = _fingerprint(self._models)
        before = (read_json(path) or {}) if request.get("resume") else {}
        done: dict[str, str] = dict(before.get("done", {}))
        failed: dict[str, str] = {}
        skipped = 0
        for number, image in enumerate(images):
            key = ""
            try:
                key = f"{self._store.sha256(image)[:32]}-{weights}"
                if done.get(image) == key:
                    skipped += 1
                else:
                    self._one(request, image, tag, datastore, infer)
                    done[image] = key
            except PastaError as error:
                failed[image] = str(error)
            except Exception as error:  # noqa: BLE001 - one image must not stop the others
                _log.exception("batch: one image failed")
                failed[image] = f"unforeseen {type(error).__name__}; see the server's log."
            part = {"done": done, "failed": failed, "total": len(images), "skipped": skipped}
            percent = round(100 * (number + 1) / len(images), 1)
            write_json(path, {"model": model, "label_tag": tag, "percent": percent, **part})
        return {"total": len(images), "skipped": skipped, "failed": failed}

    def _one(
        self,
        request: dict[str, Any],
        image: str,
        tag: str,
        datastore: Datastore,
        infer: Callable[[dict[str, Any], Datastore], dict[str, Any]],
    ) -> None:
        from monailabel.utils.others.generic import remove_file

        asked = {**copy.deepcopy(request), "image": image, "save_label": True, "label_tag": tag}
        answer = infer(asked, datastore)
        if answer.get("file"):
            remove_file(answer["file"])


def record_path(store: Store, model: str, tag: str) -> Path:
    """Where the record of a batch is; its folder is made."""
    folder = store.private / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{checked_name('model', model)}.{checked_name('tag', tag)}.json"


def batches(store: Store) -> list[dict[str, Any]]:
    """Say of each batch how far it is: percent, numbers of images, and which failed and why."""
    found = (read_json(path) for path in sorted((store.private / _FOLDER).glob("*.json")))
    return [{**record, "done": len(record["done"])} for record in found if record]


def _fingerprint(models: Models) -> str:
    found = models.found()
    used = [found.segmentation, found.attributes, *found.screening.values()]
    weights = [model.provenance() for model in used if model]
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:16]
