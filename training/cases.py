"""Training cases on a model's grid: real CTs, rendered volumes, procedural phantoms."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.geometry import Volume
from pasta.labels import ORGANS
from pasta.preprocessing.resampling import labelmap_to_model_grid, to_model_grid
from training.losses import CERTAIN, IGNORE, allowed_classes
from training.references import read_nifti, reference_labels
from training.tissues import TOTALSEGMENTATOR_V1, tissue_map

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pasta.spec import ModelSpec

ALL_ORGANS = tuple(organ.name for organ in ORGANS)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One volume with its labels on the grid of a model.

    Attributes:
        name: of the case.
        kind: "real", "rendered" or "phantom".
        hu: (I, J, K) int16.
        labels: (I, J, K) uint8; 26 where
            it is background for certain, 255 where nothing is known.
        labelled: organs of which every voxel in the field of view is labelled.
        hidden: lesions that may be there undrawn.
        allowed: (27, 26) bool of `allowed_classes`.
        places: some voxels (N, 3) of each label value.
    """

    name: str
    kind: str
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    labelled: tuple[str, ...]
    hidden: tuple[str, ...]
    allowed: NDArray[np.bool_]
    places: Mapping[int, NDArray[np.int64]]

    def save(self, path: Path) -> None:
        """Write the case as a compressed NumPy archive."""
        np.savez_compressed(
            path,
            name=self.name,
            kind=self.kind,
            hu=self.hu,
            labels=self.labels,
            labelled=np.array(self.labelled, dtype=str),
            hidden=np.array(self.hidden, dtype=str),
            allowed=self.allowed,
        )

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            made = case(
                str(stored["name"]),
                str(stored["kind"]),
                stored["hu"],
                stored["labels"],
                stored["labelled"].tolist(),
                stored["hidden"].tolist(),
            )
            # labels that a data set does not tell apart allow more than `labelled` and `hidden` say
            return replace(made, allowed=stored["allowed"]) if "allowed" in stored else made


def case(
    name: str,
    kind: str,
    hu: NDArray[np.int16],
    labels: NDArray[np.uint8],
    labelled: Collection[str],
    hidden: Collection[str] = (),
) -> Case:
    """Build a case; what its labels allow follows from what is labelled."""
    places = {}
    for value in np.unique(labels):
        if value not in {0, CERTAIN, IGNORE}:
            found = np.argwhere(labels == value)
            places[int(value)] = found[:: max(1, len(found) // 5000)]
    allowed = allowed_classes(labelled, hidden)
    return Case(name, kind, hu, labels, tuple(labelled), tuple(hidden), allowed, places)


def on_model_grid(
    ct: Volume, labels: NDArray[np.uint8], spec: ModelSpec
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Bring a CT and labels on its grid to the grid of a model."""
    hu, _ = to_model_grid(ct, spec)
    clipped = np.clip(np.rint(hu.numpy()), -1024, 3071).astype(np.int16)
    return clipped, labelmap_to_model_grid(Volume(labels, ct.affine), spec)


def real_case(
    folder: Path, annotations: Path | None, spec: ModelSpec, hidden: Collection[str] = ()
) -> Case | None:
    """Read a CT of the data folder with whatever labels there are for it.

    Args:
        folder: holds `ct.nii.gz`; for labels see `reference_labels`.
        annotations: folder of `training.annotation`.
        spec: grid of the model.
        hidden: lesions that may be there undrawn.

    Returns:
        The case, or None where nothing is labelled.
    """
    ct = read_nifti(folder / "ct.nii.gz")
    labels, labelled = reference_labels(folder, ct.voxels.shape, annotations)
    if not labelled:
        return None
    hu, on_grid = on_model_grid(ct, labels, spec)
    on_grid[(on_grid == 0) & certain_background(hu)] = CERTAIN
    return case(folder.name, "real", hu, on_grid, sorted(labelled), hidden)


def certain_background(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Find voxels that no organ can claim: fat, and the air around the body.

    Gas inside the body is left out, for it may lie in stomach or colon.
    """
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), 0.7)
    fat = (smooth > -160) & (smooth < -30)
    air, _ = ndimage.label(smooth < -400)
    border = np.concatenate(
        [air[0].ravel(), air[-1].ravel(), air[:, 0].ravel(), air[:, -1].ravel()]
    )
    outside = np.isin(air, np.setdiff1d(np.unique(border), [0]))
    return np.asarray(fat | outside)


def tissue_templates(data: Path, spacing_mm: float) -> dict[str, NDArray[np.uint8]]:
    """Read the label maps that volumes are rendered from, axes along LPS.

    Args:
        data: the data folder.
        spacing_mm: wanted, isotropic; nearest label.

    Returns:
        Indices into `training.tissues.TISSUES` by name of the template.
    """
    demo = data / "pasta_annotations" / "lesiondiffusion_demo"
    sources = {
        name: (demo / name / "totalseg_health.nii.gz", TOTALSEGMENTATOR_V1)
        for name in ("Liver_cancer", "Bladder_cancer")
    }
    example = data / "ct" / "ts_example"
    names = json.loads((example / "labels.json").read_text(encoding="utf-8"))["organs"]
    sources["ts_example"] = (
        example / "organs.nii.gz",
        {int(value): name for value, name in names.items()},
    )
    templates = {}
    for name, (path, structures) in sources.items():
        volume = read_nifti(path)
        tissues = tissue_map(np.rint(volume.voxels).astype(np.uint8), structures)
        grid = _GridOnly("LPS", (spacing_mm,) * 3)
        templates[name] = labelmap_to_model_grid(Volume(tissues, volume.affine), grid)  # type: ignore[arg-type]
    return templates


@dataclass(frozen=True, slots=True)
class _GridOnly:
    axcodes: str
    spacing_mm: tuple[float, float, float]
