"""Scoring: compares stored labels ahead, so that the review queue answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from pasta.evaluation.review import review_queue

if TYPE_CHECKING:
    from monailabel.interfaces.datastore import Datastore

    from pasta.store import Store


class Disagreement(ScoringMethod):
    """Compare the labels of every image two by two; the scores are kept in the store."""

    def __init__(self, store: Store) -> None:
        super().__init__("Dice, surface Dice and volumes between the labels of each image")
        self._store = store

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:  # noqa: ARG002
        found = review_queue(self._store)
        return {"compared": len(found), "problems": sum(bool(pair.problem) for pair in found)}
