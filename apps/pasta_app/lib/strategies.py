"""Which image to label next, while there is nothing better."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from monailabel.interfaces.tasks.strategy import Strategy

if TYPE_CHECKING:
    from monailabel.interfaces.datastore import Datastore


class First(Strategy):
    """The first image without a label, by id."""

    def __init__(self) -> None:
        super().__init__("First unlabelled image")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        return {"id": images[0]} if images else None


class Random(Strategy):
    """A random image without a label; those not shown for long come first.

    The stock strategy fails where all weights are 0: the only image left, asked for twice within
    one second.
    """

    def __init__(self, generator: np.random.Generator | None = None) -> None:
        super().__init__("Random unlabelled image")
        self._generator = generator or np.random.default_rng()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        name = request.get("strategy", "random")
        now = time.time()
        shown = [
            datastore.get_image_info(image).get("strategy", {}).get(name, {}).get("ts", 0)
            for image in images
        ]
        weights = np.array([max(now - ts, 1.0) for ts in shown])
        index = int(self._generator.choice(len(images), p=weights / weights.sum()))
        return {"id": images[index], "weight": float(weights[index])}
