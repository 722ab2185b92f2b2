"""Reference labels of the data folder's real CTs, as this project's label values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from pasta.geometry import Volume
from pasta.labels import LESIONS, ORGANS, label_named
from training.tissues import TISSUE_VALUE, label_map, tissue_map

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Labels = tuple["NDArray[np.uint8]", set[str]]

# IRCADb file names to labels; vessels, skin and spleen are background here
_IRCADB_PARTS: tuple[tuple[str, str], ...] = (
    ("bone", "bone"),
    ("lung", "lung"),
    ("kidney", "kidney"),
    ("livertumor", "liver_tumor"),
    ("liverkyst", "liver_cyst"),
    ("liver", "liver"),
)


def read_nifti(path: Path) -> Volume:
    """Read a CT or a labelmap of the data folder as it is stored."""
    image = nib.nifti1.load(path)
    return Volume(np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64))


def reference_labels(folder: Path, shape: tuple[int, ...], annotations: Path | None) -> Labels:
    """Read what is labelled in a CT.

    Args:
        folder: of the case; may hold `organs.nii.gz`, `lesions.nii.gz` and `labels.json`, or `masks/`.
        shape: of the CT.
        annotations: folder of `training.annotation`: `<case>.nii.gz` with this project's label values
            (255 where nothing is known) and `<case>.json` naming the organs labelled completely.

    Returns:
        Labelmap, and the names of the organs and lesions labelled completely in the field of view.
    """
    labels, complete = np.zeros(shape, np.uint8), set[str]()
    names: Mapping[str, Mapping[str, str]] = {}
    if (folder / "labels.json").exists():
        names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    structures = {int(value): name for value, name in names.get("organs", {}).items()}
    annotation = annotations / f"{folder.name}.nii.gz" if annotations else None
    if (folder / "masks").is_dir():
        labels, complete = _ircadb(folder / "masks", shape)
    elif len(structures) > 20:  # a whole TotalSegmentator map
        tissues = tissue_map(read_nifti(folder / "organs.nii.gz").voxels, structures)
        labels = label_map(tissues)
        complete = {organ.name for organ in ORGANS}
        if TISSUE_VALUE["esophagus"] not in tissues:
            complete.remove("esophagus")
    elif annotation is not None and annotation.exists():
        labels = read_nifti(annotation).voxels.astype(np.uint8)
        sidecar = json.loads(annotation.with_name(f"{folder.name}.json").read_text("utf-8"))
        complete = set(sidecar["complete"])
    elif structures:
        organs = read_nifti(folder / "organs.nii.gz").voxels
        for value, name in structures.items():
            if name.startswith("lung"):
                labels[organs == value] = label_named("lung").value
                complete.add("lung")
    for number, name in names.get("lesions", {}).items():
        if name.startswith("lung"):
            lesions = read_nifti(folder / "lesions.nii.gz").voxels
            labels[lesions == int(number)] = label_named("lung_tumor").value
            complete.add("lung_tumor")
    return labels, complete


def _ircadb(masks: Path, shape: tuple[int, ...]) -> Labels:
    labels, complete = np.zeros(shape, np.uint8), {"bone", "lung", "kidney", "liver"}
    painted: dict[str, NDArray[np.bool_]] = {}
    for path in sorted(masks.glob("*.nii.gz")):
        for part, label in _IRCADB_PARTS:
            if part in path.name:
                mask = read_nifti(path).voxels > 0
                painted[label] = painted.get(label, np.zeros(shape, bool)) | mask
                break
    for name in ("bone", "lung", "kidney", "liver", "liver_tumor", "liver_cyst"):
        if name in painted:
            labels[painted[name]] = label_named(name).value
    return labels, complete | {name for name in painted if name in {le.name for le in LESIONS}}
