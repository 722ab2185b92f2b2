"""Refine an exported data set: a copy with other images, masks and reports as they were."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from pasta.errors import OutputError, VolumeError
from pasta.geometry import Volume
from pasta.io import read_labelmap, read_volume
from pasta.io.files import atomic_file
from pasta.io.nifti import write_nifti
from pasta.labels import LESIONS, label_of, organ_named
from pasta.neighbourhood import Scan
from training.synthesis.refinement.diffusion import RefinementError
from training.synthesis.refinement.guards import guarded

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from training.synthesis.refinement.sdedit import Refiner

DONE_FILE = "refinement.json"  # in each case, written last
LOWEST_LESION = LESIONS[0].value


def refine_data(refiner: Refiner, data: Path, out: Path, steps: int, seed: int) -> Counter[str]:
    """Refine every case of a data set that `python -m training.synthesis export` wrote.

    A case that the guards refuse is copied unrefined. Killed and started again, it goes on; the
    result is the same.

    Args:
        refiner: trained.
        data: folder with `Organ/Type/ID/{img,classes}.nii.gz`.
        out: another folder.
        steps: t.
        seed: of the noise, together with the place of the case in `data`.

    Returns:
        Cases by outcome: "refined", or "kept unrefined: " and the guard.

    Raises:
        RefinementError: if there is no case, or `out` holds a refinement by other settings.
        VolumeError: if a case cannot be read.
        OutputError: if a case cannot be written.
    """
    cases = sorted(path.parent for path in data.glob("*/*/*/img.nii.gz"))
    if not cases:
        msg = f"{data}: no Organ/Type/ID/img.nii.gz found. Name the folder of an export."
        raise RefinementError(msg)
    if out.resolve() == data.resolve():
        msg = f"{out}: is the data set itself. Name another folder with --out."
        raise RefinementError(msg)
    counts: Counter[str] = Counter()
    for folder in tqdm(cases, desc="cases", mininterval=5):
        name = folder.relative_to(data)
        target = out / name
        settings = {"t": steps, "seed": seed, "patch": refiner.run.patch}
        if (target / DONE_FILE).exists():
            stored = json.loads((target / DONE_FILE).read_text(encoding="utf-8"))
            if stored["settings"] != settings:
                msg = f"{target}: refined with {stored['settings']}. Choose another --out."
                raise RefinementError(msg)
        else:
            stored = _refine_case(refiner, folder, target, name.as_posix(), settings)
        counts[str(stored["outcome"])] += 1
    return counts


def _refine_case(
    refiner: Refiner, folder: Path, target: Path, name: str, settings: dict[str, int]
) -> dict[str, object]:
    image = read_volume(folder / "img.nii.gz")
    classes = read_labelmap(folder / "classes.nii.gz", highest=255)
    if classes.voxels.shape != image.voxels.shape:
        msg = f"{name}: img and classes differ in shape. Export the case again."
        raise VolumeError(msg)
    hu = np.round(image.voxels).astype(np.int16)
    labels = classes.voxels.astype(np.uint8)
    values = [int(v) for v in np.unique(labels) if v >= LOWEST_LESION]
    if len(values) != 1:
        msg = (
            f"{name}: {len(values)} lesion types in classes.nii.gz, expected one. Export it again."
        )
        raise VolumeError(msg)
    organ = organ_named(label_of(values[0]).organ).value
    # the case's own name, so that its noise does not depend on which others there are
    noise_seed = zlib.crc32(f"{settings['seed']} {name}".encode())
    host = (labels == organ) | (labels == values[0])
    refined = refiner.refined(hu, host, settings["t"], noise_seed)
    labelmap = Volume(labels, image.affine)

    def scan_of(voxels: NDArray[np.int16]) -> Scan:
        return Scan(Volume(voxels, image.affine), labelmap)

    result = guarded(hu, refined, labels, scan_of, values[0])
    outcome = "refined" if result.kept else f"kept unrefined: {result.reason}"
    document: dict[str, object] = {
        "settings": settings,
        "outcome": outcome,
        "numbers": dict(result.numbers),
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path.name != "img.nii.gz":
                shutil.copyfile(path, target / path.name)
        write_nifti(Volume(result.hu, image.affine), target / "img.nii.gz")
        with atomic_file(target / DONE_FILE) as file:
            file.write(json.dumps(document, indent=1).encode())
    except OutputError:
        raise
    except OSError as error:
        msg = f"{target}: cannot be written ({error.strerror}). Free space and run it again."
        raise OutputError(msg) from error
    return document
