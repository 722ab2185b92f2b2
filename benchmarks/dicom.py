"""Time and memory of a large DICOM SEG: `python -m benchmarks.dicom` (needs PASTA_DATA's series)."""

import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from pasta.dicom import read_source
from pasta.dicom.export import save
from pasta.dicom.segmentation import read_segmentation, segmentation
from pasta.geometry import Volume
from pasta.labels import LABELS

SLICES = 300


def long_series(folder: Path) -> None:
    """Repeat the slices of a real series until there are enough."""
    data = Path(os.environ.get("PASTA_DATA", "../shared/data"))
    slices = [pydicom.dcmread(path) for path in sorted((data / "dicom/crlm_1004").glob("*.dcm"))]
    for number in range(SLICES):
        dataset = slices[number % len(slices)]
        dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], float(number)]
        dataset.SOPInstanceUID = f"2.25.{number + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"{number:04d}.dcm")


def boxes(shape: tuple[int, ...]) -> np.ndarray:
    """Draw a box of every label."""
    rng = np.random.default_rng(0)
    voxels = np.zeros(shape, np.uint8, order="F")
    for label in LABELS:
        radius, slices = (60, 80) if label.kind == "organ" else (20, 20)
        (i, j), k = rng.integers(60, 450, 2), int(rng.integers(20, 200))
        voxels[i - radius : i + radius, j - radius : j + radius, k : k + slices] = label.value
    return voxels


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "series", Path(name) / "seg.dcm"
        folder.mkdir()
        long_series(folder)
        source = read_source(folder)
        voxels = boxes(source.grid.shape)
        start = time.perf_counter()
        made = segmentation(Volume(voxels, source.grid.affine), source)
        save(made.dataset, path)
        done = time.perf_counter()
        back = read_segmentation(path, source.grid)
        print(
            f"{len(made.segments)} segments, {made.dataset.NumberOfFrames} frames, "
            f"{path.stat().st_size / 1e6:.1f} MB; made in {done - start:.1f} s, "
            f"read in {time.perf_counter() - done:.1f} s, "
            f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, "
            f"identical: {np.array_equal(back.voxels, voxels)}"
        )


if __name__ == "__main__":
    main()
