"""Which stored cases to review first: those where two labels of one CT disagree most."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pasta.errors import PastaError
from pasta.evaluation.agreement import agreement
from pasta.io import read_labelmap
from pasta.store.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pasta.store import LabelRecord, Store

_FOLDER = "agreement"  # of the store's own: scores by the hashes of both labels, so never stale
_VERSION = 1  # of what is kept there


@dataclass(frozen=True, slots=True)
class Compared:
    """Two current labels of one image.

    Attributes:
        image: its id.
        one: tag, reader and version of a label.
        other: of the other.
        scores: of `Agreement.document`; empty where they could not be compared.
        problem: why not.
    """

    image: str
    one: tuple[str, str, int]
    other: tuple[str, str, int]
    scores: dict[str, Any]
    problem: str = ""

    @property
    def disagreement(self) -> float:
        """In [0, 1]; 1 where they could not be compared: somebody has to look."""
        return float(self.scores.get("disagreement", 1.0))

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        sides = {
            name: dict(zip(("tag", "reader", "version"), side, strict=True))
            for name, side in (("one", self.one), ("other", self.other))
        }
        return {
            "image": self.image,
            **sides,
            "disagreement": self.disagreement,
            "structures": self.scores.get("structures", []),
            "problem": self.problem,
        }


def review_queue(
    store: Store, tags: Iterable[str] = ("original", "final"), readers: Iterable[str] | None = None
) -> list[Compared]:
    """Compare the current labels of every image two by two; most disagreement first, ties by image.

    A model's prediction is a label under its own name ("original" of "pasta_segmentation"), so a model
    and a reader, two readers and two models are compared alike. Scores are kept in the store by the
    hashes of both files: asked again, or after a restart, only new labels are read.

    Args:
        store: of images and labels.
        tags: that count.
        readers: that count; None takes all.

    Raises:
        OutputError: if scores cannot be kept.
    """
    wanted, known = set(tags), None if readers is None else set(readers)
    by_image: dict[str, list[LabelRecord]] = {}
    for record in store.labels():
        if record.tag in wanted and (known is None or record.reader in known):
            by_image.setdefault(record.image, []).append(record)
    found = [pair for image in sorted(by_image) for pair in _pairs(store, by_image[image])]
    return sorted(found, key=lambda pair: (-pair.disagreement, pair.image, pair.one, pair.other))


def _pairs(store: Store, records: list[LabelRecord]) -> Iterator[Compared]:
    ordered = sorted(records, key=lambda record: (record.tag, record.reader))
    for one, other in combinations(ordered, 2):
        sides = [(record.tag, record.reader, record.version) for record in (one, other)]
        try:
            yield Compared(one.image, sides[0], sides[1], _scores(store, one, other))
        except PastaError as error:
            yield Compared(one.image, sides[0], sides[1], {}, str(error))


def _scores(store: Store, one: LabelRecord, other: LabelRecord) -> dict[str, Any]:
    path = store.private / _FOLDER / f"{one.sha256[:32]}-{other.sha256[:32]}-v{_VERSION}.json"
    kept = read_json(path)
    if kept is not None:
        return kept
    labelmaps = [read_labelmap(store.label_path(record)) for record in (one, other)]
    scores = agreement(labelmaps[0], labelmaps[1]).document()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, scores)
    return scores
