"""Screening: tumour probability of each organ on a non-contrast CT (paper, Methods 6).

The organ is cropped with a margin, resized and padded to the network's input; the probability is the
mean over the folds. Where the organ is not wholly there, no number is given but the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from scipy import ndimage

from pasta.errors import CheckpointError, LabelError
from pasta.geometry import Volume
from pasta.inference.device import fast_precision
from pasta.inference.progress import Progress, part_of, silent
from pasta.labels import lesions_of, organ_named
from pasta.preprocessing.crops import Bounds, Crop, crop_around, placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from pasta.networks.checkpoint import Model
    from pasta.networks.unet import PastaClassifier

Face = tuple[int, bool]
Status = Literal["screened", "absent", "cut_off", "too_small"]
MINIMUM_MM3 = 4000.0  # paper: an organ counts as present above this
ISLAND_SHARE = 0.02  # smaller parts are taken for noise; a kidney is never 2 % of the other
EDGE_SHARE = 0.25  # of the largest part, where all of the organ's parts are there inside the scan
PARTS = {"kidney": 2, "lung": 2}  # of a whole organ; one for all others
FACES = {
    "R": "right",
    "L": "left",
    "A": "anterior",
    "P": "posterior",
    "S": "superior",
    "I": "inferior",
}
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True, slots=True)
class OrganFinding:
    """What screening says of one organ.

    Attributes:
        organ: its name.
        status: "screened", or why there is no probability.
        sentence: the status in words.
        model: name of the model that is meant for the organ.
        volume_ml: of the organ with its lesions as marked; 0 where it is absent.
        fold_probabilities: of a tumour, one per fold; empty unless screened.
        box_voxels: crop, half-open bounds along the axes of the CT as read; None unless screened.
        box_mm: least and greatest R, A and S coordinate of the crop (RAS+ mm).
        ignored_ml: volume of labelled islands that were not taken for a part of the organ.
        ignored_at: faces of the field of view that such islands touch, in words; empty if none.
    """

    organ: str
    status: Status
    sentence: str
    model: str
    volume_ml: float
    fold_probabilities: tuple[float, ...] = ()
    box_voxels: Bounds | None = None
    box_mm: tuple[tuple[float, float], ...] | None = None
    ignored_ml: float = 0.0
    ignored_at: str = ""

    @property
    def probability(self) -> float | None:
        """Mean over the folds, None unless screened."""
        if not self.fold_probabilities:
            return None
        return sum(self.fold_probabilities) / len(self.fold_probabilities)

    def document(self) -> dict[str, Any]:
        """Build the JSON-ready entry."""
        folds = self.fold_probabilities
        spread = None  # one fold says nothing of it
        if len(folds) > 1:
            spread = {"min": min(folds), "max": max(folds), "sd": float(np.std(folds))}
        return {
            "organ": self.organ,
            "title": organ_named(self.organ).title,
            "status": self.status,
            "sentence": self.sentence,
            "model": self.model,
            "probability": _rounded(self.probability),
            "folds": [_rounded(p) for p in folds],
            "spread": spread and {name: _rounded(value) for name, value in spread.items()},
            "organ_volume_ml": round(self.volume_ml, 3),
            "ignored_islands": {
                "volume_ml": round(self.ignored_ml, 3),
                "edges": self.ignored_at.split(" and ") if self.ignored_at else [],
            },
            "box_voxels": self.box_voxels and [list(bound) for bound in self.box_voxels],
            "box_mm": self.box_mm and [[round(edge, 3) for edge in bound] for bound in self.box_mm],
        }


@dataclass(frozen=True, slots=True, eq=False)
class ScreeningFindings:
    """Screening of all organs asked for.

    Attributes:
        organs: in the order asked for.
        evidence: float32 in [0, 1] on the grid of the CT, None if not asked for. See `screen`.
        warnings: sentences on doubtful use.
    """

    organs: tuple[OrganFinding, ...]
    evidence: Volume | None = None
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Build the JSON-ready fragment; warnings are left to the caller's provenance."""
        return {"organs": [finding.document() for finding in self.organs]}


def screen(
    volume: Volume,
    labelmap: Volume,
    models: Mapping[str, Model],
    organs: Sequence[str] | None = None,
    *,
    device: torch.device,
    evidence: bool = False,
    progress: Progress | None = None,
) -> ScreeningFindings:
    """Estimate the probability of a tumour in each organ.

    An organ is its own label and those of its lesions. Paired organs are one: the kidneys' crop holds
    both, and the probability is that either has a tumour. Islands below 2 % of the largest part do
    not count. Nor do those below 25 % that touch an edge of the scan, where the organ lies wholly
    inside it (both kidneys do): a network labels falsely at the ends of a scan. Each finding says
    what was ignored.

    The evidence map shows where the network saw it: on the stride-16 map A of each fold, the sum over
    channels of A times the gradient of the log-odds of a tumour, negative values cut off, divided by
    its maximum and multiplied by the fold's probability, then averaged over the folds. So the hottest
    voxel of an organ is at most its probability, and a map of an unsuspicious organ stays dark. It is
    zero outside the crops; where crops overlap the greater value stands.

    Args:
        volume: CT in HU, any orientation and spacing.
        labelmap: label values of Supplementary Table 9 on the grid of `volume`.
        models: of task "screening", by organ.
        organs: to screen; None takes all that have a model.
        device: where the networks run.
        evidence: also compute the evidence map.
        progress: called after every fold of every organ.

    Returns:
        One finding per organ; where the organ is absent, cut off by the field of view or below
        4000 mm3 it says so and gives no probability.

    Raises:
        CheckpointError: if weights do not fit or answer with numbers that are not finite.
        LabelError: if an organ is unknown or has no model, or the grids differ.
        CancelledError: if `progress` raises it.
    """
    progress = progress or silent
    wanted = list(models) if organs is None else list(organs)
    for organ in wanted:
        if organ_named(organ).name not in models:
            msg = f"no screening model for the {organ}; there is one for {', '.join(models)}."
            raise LabelError(msg)
        if models[organ].spec.task != "screening":
            msg = f"model {models[organ].spec.name} is not made for screening; import one that is."
            raise CheckpointError(msg)
    if not labelmap.grid.matches(volume.grid):
        msg = "the labelmap is not on the grid of the CT; resample it to the CT first."
        raise LabelError(msg)
    heat = np.zeros(volume.voxels.shape, np.float32) if evidence else None
    findings = []
    loaded: tuple[Model, list[nn.Module]] | None = None  # one model at a time in memory
    progress(0.0, "screening")
    for index, organ in enumerate(wanted):
        model = models[organ]
        finding, bounds = _located(labelmap, organ, model)
        if bounds is not None:
            if loaded is None or loaded[0] is not model:
                loaded = (model, model.networks(device))
            share = part_of(progress, index / len(wanted), (index + 1) / len(wanted))
            crop = crop_around(volume.grid, bounds, model.spec)
            probabilities, block = _judged(
                volume, crop, *loaded, device, evidence=evidence, progress=share
            )
            if heat is not None and block is not None:
                placed(block, crop, heat)
            finding = replace(
                finding,
                fold_probabilities=probabilities,
                box_voxels=crop.native_box,
                box_mm=crop.bounds_mm,
            )
        findings.append(finding)
        progress((index + 1) / len(wanted), "screening")
    return ScreeningFindings(
        tuple(findings),
        None if heat is None else Volume(heat, volume.affine, volume.acquisition),
        _warnings(volume),
    )


def _located(labelmap: Volume, organ: str, model: Model) -> tuple[OrganFinding, Bounds | None]:
    """Find an organ; the bounds are None where it cannot be screened."""
    title, name = organ_named(organ).title, model.spec.name
    values = [organ_named(organ).value, *(lesion.value for lesion in lesions_of(organ))]
    labelled = np.isin(labelmap.voxels, values)
    mask, bounds, edges = _main_parts(labelled, PARTS.get(organ, 1))
    voxels = int(np.count_nonzero(mask))
    volume_mm3 = voxels * labelmap.grid.voxel_volume_mm3
    ignored_ml = (int(np.count_nonzero(labelled)) - voxels) * labelmap.grid.voxel_volume_mm3 / 1000
    ignored_at = _named(edges, labelmap)
    status: Status = "screened"
    sentence = f"{title}: screened."
    faces = _named(_faces_touched(bounds, labelmap.voxels.shape), labelmap) if bounds else ""
    if bounds is None:
        status, sentence = "absent", f"{title}: not found in this scan, so not screened."
    elif faces:
        status = "cut_off"
        sentence = (
            f"{title}: reaches the {faces} edge of the scan and may be cut off, so not screened."
        )
    elif volume_mm3 < MINIMUM_MM3:
        status = "too_small"
        sentence = (
            f"{title}: only {volume_mm3 / 1000:.1f} ml found, less than "
            f"{MINIMUM_MM3 / 1000:g} ml, so not screened."
        )
    if ignored_at:
        sentence += f" Islands of its label at the {ignored_at} edge were ignored."
    finding = OrganFinding(
        organ,
        status,
        sentence,
        name,
        volume_mm3 / 1000,
        ignored_ml=ignored_ml,
        ignored_at=ignored_at,
    )
    return finding, bounds if status == "screened" else None


def _main_parts(
    mask: NDArray[np.bool_], whole_parts: int
) -> tuple[NDArray[np.bool_], Bounds | None, set[Face]]:
    """Drop what is no plausible part of an organ.

    Args:
        mask: of the organ.
        whole_parts: how many parts the organ has when all of it is there.

    Returns:
        What is left, cut to its bounds; the bounds; and the faces that dropped islands touch.
    """
    outer = _bounds(mask)
    if outer is None:
        return mask, None, set()
    parts, count = ndimage.label(mask[_slices(outer)])
    if count == 1:
        return mask[_slices(outer)], outer, set()
    sizes = np.bincount(parts.ravel())[1:]
    boxes: list[Bounds] = []
    for found in ndimage.find_objects(parts):
        i, j, k = (
            (low + part.start, low + part.stop) for (low, _), part in zip(outer, found, strict=True)
        )
        boxes.append((i, j, k))
    touched = [_faces_touched(box, mask.shape) for box in boxes]
    at_edge = np.array([bool(faces) for faces in touched])
    large = sizes >= EDGE_SHARE * sizes.max()
    kept = sizes >= ISLAND_SHARE * sizes.max()
    # the largest part is inside, and so is its fellow: what is small at an edge is no third
    if np.count_nonzero(large & ~at_edge) >= whole_parts and not (large & at_edge).any():
        kept &= ~at_edge
    i, j, k = (
        (min(box[axis][0] for box in chosen), max(box[axis][1] for box in chosen))
        for chosen in [[box for box, keep in zip(boxes, kept, strict=True) if keep]]
        for axis in range(3)
    )
    inner: Bounds = (i, j, k)
    dropped = [faces for faces, keep in zip(touched, kept, strict=True) if not keep]
    lead = [low for low, _ in outer]
    cut = tuple(slice(a - o, b - o) for (a, b), o in zip(inner, lead, strict=True))
    return np.concatenate(([False], kept))[parts[cut]], inner, set().union(*dropped)


def _bounds(mask: NDArray[np.bool_]) -> Bounds | None:
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    i, j, k = ((part.start, part.stop) for part in found[0])
    return i, j, k


def _slices(bounds: Bounds) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in bounds)


def _faces_touched(bounds: Bounds, shape: tuple[int, ...]) -> set[Face]:
    """Find the faces of the field of view that a box touches: axis, and whether its far end."""
    return {
        (axis, far)
        for axis, ((start, stop), length) in enumerate(zip(bounds, shape, strict=True))
        for far, touches in ((False, start == 0), (True, stop == length))
        if touches
    }


def _named(faces: set[Face], labelmap: Volume) -> str:
    """Name faces in words, such as "anterior and right"; empty for none."""
    codes = labelmap.grid.axcodes
    return " and ".join(
        FACES[codes[axis] if far else OPPOSITE[codes[axis]]] for axis, far in sorted(faces)
    )


def _judged(
    volume: Volume,
    crop: Crop,
    model: Model,
    folds: Sequence[nn.Module],
    device: torch.device,
    *,
    evidence: bool,
    progress: Progress,
) -> tuple[tuple[float, ...], NDArray[np.float32] | None]:
    """Run all folds on one crop.

    Returns:
        Tumour probability per fold; the evidence in the crop's native box, if asked for.
    """
    patch = crop.patch(volume, model.spec)[None, None].to(device)
    probabilities: list[float] = []
    block: NDArray[np.float32] | None = None
    for number, network in enumerate(folds):
        probability, cells = _forward(cast("PastaClassifier", network), patch)
        if not np.isfinite(probability):
            msg = (
                f"model {model.spec.name}, fold {number}: the answer is not finite. The weights "
                "do not suit this input; check the model's intensity settings."
            )
            raise CheckpointError(msg)
        probabilities.append(probability)
        if evidence:
            heat = crop.to_native(cells.cpu(), model.spec)
            peak = float(heat.max(initial=0.0))
            if peak > 0:
                heat *= probability / (peak * len(folds))
            block = heat if block is None else block + heat
        progress((number + 1) / len(folds), "screening")
    return tuple(probabilities), block


def _forward(network: PastaClassifier, patch: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Compute the tumour probability and what each cell of the stride-16 map speaks for it.

    The head sees only the mean of the map, so the gradient is the same in all cells.
    """
    with torch.no_grad(), fast_precision(patch.device):
        features = network.feature_map(patch).float()
    with torch.enable_grad():
        pooled = features.mean(dim=(2, 3, 4)).requires_grad_()
        logits = network.head(pooled)[0]
        (gradient,) = torch.autograd.grad(logits[1] - logits[0], pooled)
    probability = float(torch.softmax(logits.detach(), dim=0)[1])
    return probability, torch.einsum("c,cijk->ijk", gradient[0], features[0]).clamp_(min=0)


def _warnings(volume: Volume) -> tuple[str, ...]:
    if not volume.acquisition.contrast:
        return ()
    source = volume.acquisition.contrast_source or "the scan"
    return (
        f"{source} says that contrast agent was given; screening is made for non-contrast CT, "
        "so its probabilities may be wrong.",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
