"""Voxels of a case record: channels, labelmap, and the training case on a model's grid."""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from nibabel.filebasedimages import ImageFileError

from pasta.errors import LabelError, VolumeError
from pasta.geometry import Grid, Volume
from pasta.io.checks import checked_affine, checked_shape
from pasta.io.dicom import read_dicom
from pasta.io.files import require_file
from pasta.io.labelmaps import read_labelmap
from pasta.io.stored import read_stored
from pasta.io.volumes import read_volume
from pasta.labels import BACKGROUND, label_named
from training.cases import Case, case, certain_background, on_model_grid
from training.datasets.records import IGNORED, DatasetError
from training.losses import CERTAIN, IGNORE, allowed_classes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from pasta.spec import ModelSpec
    from training.datasets.records import CaseRecord, Mask

_NIFTI = (".nii", ".nii.gz")
_HIGHEST = 65535
_SAME_MM = 0.05  # NIfTI and MetaImage round affines


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """The voxels of one case.

    Attributes:
        record: they belong to.
        channels: volumes on one grid; CT in HU, others as stored.
        labelmap: uint8 target values on that grid: 0 where no mask is painted, 1-25 labels (of
            several possible labels the first), 26 certain background, 255 nothing known; None
            without masks.
    """

    record: CaseRecord
    channels: tuple[Volume, ...]
    labelmap: Volume | None


def load_case(record: CaseRecord) -> LoadedCase:
    """Read all voxels of a case.

    Raises:
        VolumeError: if an image cannot be read or the channels lie on different grids.
        LabelError: if a mask has a value without a meaning or does not lie on the grid of the image.
    """
    channels = load_channels(record)
    labelmap = load_labelmap(record, channels[0].grid) if record.masks else None
    return LoadedCase(record, channels, labelmap)


def load_channels(record: CaseRecord) -> tuple[Volume, ...]:
    """Read the channels of a case: CT in HU by `pasta.io`, other modalities as stored.

    Raises:
        VolumeError: if an image cannot be read or the channels lie on different grids.
    """
    if len(record.images) == 1 and len(record.channels) > 1:
        return _split_channels(record)
    if len(record.images) != len(record.channels):
        msg = (
            f"{record.case}: {len(record.images)} image files for {len(record.channels)} channels. "
            "Give one file for each channel, or one 4-D NIfTI file."
        )
        raise VolumeError(msg)
    volumes = tuple(
        _channel(path, name) for path, name in zip(record.images, record.channels, strict=True)
    )
    for path, volume in zip(record.images[1:], volumes[1:], strict=True):
        if not volume.grid.matches(volumes[0].grid, _SAME_MM):
            msg = (
                f"{path.name}: does not lie on the grid of {record.images[0].name}. Register and "
                "resample the channels of a case to one grid."
            )
            raise VolumeError(msg)
    return volumes


def load_labelmap(record: CaseRecord, grid: Grid) -> Volume:
    """Paint the masks of a case over one another.

    Args:
        record: with at least one mask.
        grid: of its image.

    Returns:
        uint8 target values as in `LoadedCase`.

    Raises:
        LabelError: if a mask has a value without a meaning or does not lie on the grid.
        VolumeError: if a mask cannot be read.
    """
    voxels = np.zeros(grid.shape, np.uint8, order="F")
    for mask in record.masks:
        stored = _mask_voxels(mask, grid)
        present = np.flatnonzero(np.bincount(stored.ravel(order="K"), minlength=1))
        unknown = [int(value) for value in present if value and value not in mask.values]
        if unknown:
            msg = (
                f"{mask.path.name}: values {unknown} have no meaning; known are "
                f"{sorted(mask.values)}. Say what they are or export the labels again."
            )
            raise LabelError(msg)
        table = np.zeros(int(present.max(initial=0)) + 1, np.uint8)
        for value, meaning in mask.values.items():
            if value < len(table):
                table[value] = _target(meaning[0])
        painted = stored > 0
        voxels[painted] = table[stored[painted]]
    return Volume(voxels, grid.affine)


def allowed_of(record: CaseRecord, hidden: Collection[str] | None = None) -> NDArray[np.bool_]:
    """Say which classes each target value of a case allows, for `partial_label_loss`.

    Args:
        record: of the case.
        hidden: lesions that may lie undrawn under the label of their organ; those of
            `CaseRecord.hidden_lesions` by default.

    Returns:
        (27, 26) bool as from `allowed_classes`; the target of a meaning of several labels allows all
        of them.
    """
    hidden = record.hidden_lesions if hidden is None else hidden
    allowed = allowed_classes(record.complete, hidden)
    for meaning in record.ambiguous:
        for name in meaning:
            allowed[label_named(meaning[0]).value, label_named(name).value] = True
    return allowed


def to_case(
    record: CaseRecord, spec: ModelSpec, hidden: Collection[str] | None = None, kind: str = "real"
) -> Case:
    """Bring a labelled CT to the grid of a model, as `training.segmentation` trains on it.

    Args:
        record: of the case: one CT channel and at least one mask.
        spec: grid of the model.
        hidden: see `allowed_of`.
        kind: of the case, as in `training.cases.Case`.

    Returns:
        The case; fat and outside air are certain background.

    Raises:
        DatasetError: if the case has no labels of PASTA's, or more channels than a CT.
        VolumeError: if an image cannot be read.
        LabelError: if a mask does not fit.
    """
    if record.channels != ("CT",):
        msg = (
            f"{record.case}: has the channels {', '.join(record.channels)}; a training case is one "
            "CT. Load them with load_case."
        )
        raise DatasetError(msg)
    if not record.complete:
        msg = (
            f"{record.case}: nothing of PASTA's labels is labelled completely. Name what is with "
            "`complete`, or leave the case out."
        )
        raise DatasetError(msg)
    hidden = record.hidden_lesions if hidden is None else tuple(hidden)
    loaded = load_case(record)
    if loaded.labelmap is None:
        msg = f"{record.case}: has no label file. Leave it out of a segmentation run."
        raise DatasetError(msg)
    hu, labels = on_model_grid(loaded.channels[0], loaded.labelmap.voxels, spec)
    labels[(labels == 0) & certain_background(hu)] = CERTAIN
    made = case(record.case, kind, hu, labels, record.complete, hidden)
    return replace(made, allowed=allowed_of(record, hidden))


def grid_of(path: Path) -> Grid:
    """Read the grid of an image from its header alone; nothing is checked but that it is there.

    Raises:
        VolumeError: if the header cannot be read.
    """
    if path.suffix.lower() == ".zip" or path.is_dir():
        with _dicom_folder(path) as folder:
            return _dicom_grid(folder)
    require_file(path)
    try:
        if path.name.lower().endswith(_NIFTI):
            image: Any = nib.load(path)
            i, j, k = (*image.shape, 1, 1)[:3]
            return Grid(np.asarray(image.affine, dtype=np.float64), (i, j, k))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except (ImageFileError, RuntimeError, OSError, EOFError, ValueError) as error:
        msg = f"{path.name}: the header cannot be read. Copy or download the file again."
        raise VolumeError(msg) from error
    affine = np.diag([*reader.GetSpacing()[:3], 1.0])
    i, j, k = (int(n) for n in reader.GetSize()[:3])
    return Grid(affine, (i, j, k))


def _target(name: str) -> int:
    if name == BACKGROUND:
        return CERTAIN
    return IGNORE if name == IGNORED else label_named(name).value


def _channel(path: Path, name: str) -> Volume:
    if name == "CT":
        if path.suffix.lower() == ".zip":
            with _dicom_folder(path) as folder:
                return read_volume(folder)
        return read_volume(path)
    image = read_stored(path)
    voxels = image.voxels
    if image.slope != 1 or image.intercept != 0:
        voxels = voxels * np.float32(image.slope) + np.float32(image.intercept)
    return Volume(voxels, image.affine, warnings=image.warnings, sha256=image.sha256)


def _split_channels(record: CaseRecord) -> tuple[Volume, ...]:
    path = record.images[0]
    require_file(path)
    try:
        image: Any = nib.load(path)
        stored = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        msg = f"{path.name}: cannot be read as NIfTI. Copy or download the file again."
        raise VolumeError(msg) from error
    if stored.ndim != 4 or stored.shape[3] != len(record.channels):
        msg = (
            f"{path.name}: expected {len(record.channels)} channels "
            f"({', '.join(record.channels)}), found shape {stored.shape}. Export all channels."
        )
        raise VolumeError(msg)
    checked_shape(path.name, stored.shape[:3])
    affine = checked_affine(path.name, np.asarray(image.affine, dtype=np.float64))
    return tuple(Volume(stored[..., channel], affine) for channel in range(stored.shape[3]))


def _mask_voxels(mask: Mask, grid: Grid) -> NDArray[np.integer[Any]]:
    """Read the stored values of a mask on the grid of the image."""
    if mask.member or mask.path.is_dir():
        with _dicom_folder(mask.path, mask.member) as folder:
            image, _ = read_dicom(folder)
        placed = _on_grid(mask, Volume(image.voxels, image.affine), grid)
        if placed.voxels.dtype.kind not in "iu" or placed.voxels.min() < 0:
            msg = f"{mask.member or mask.path.name}: a mask holds whole numbers from 0 on. Unpack it again."
            raise LabelError(msg)
        return np.asarray(placed.voxels)
    try:
        return read_labelmap(mask.path, grid, highest=_HIGHEST).voxels
    except LabelError as error:
        # a labelmap that a .seg.nrrd or another orientation puts elsewhere is an error as it stands
        if not mask.path.name.lower().endswith(_NIFTI):
            raise
        placed = _on_grid(mask, read_labelmap(mask.path, highest=_HIGHEST), grid, error)
        return np.asarray(placed.voxels)


def _on_grid(mask: Mask, volume: Volume, grid: Grid, error: LabelError | None = None) -> Volume:
    """Turn a mask's axes to those of its image, where the two differ in nothing else."""
    from pasta.geometry import reoriented

    turned = reoriented(volume, grid.axcodes)
    if not turned.grid.matches(grid, _SAME_MM):
        if error is not None:
            raise error
        msg = (
            f"{mask.member or mask.path.name}: the mask does not lie on the grid of its CT "
            f"({turned.grid.shape} voxels, the CT {grid.shape}). Unpack both again."
        )
        raise LabelError(msg)
    return turned


@contextmanager
def _dicom_folder(path: Path, member: str = "") -> Iterator[Path]:
    """Give a folder of DICOM files: itself, or the part of a zip archive, unpacked for the time."""
    if path.is_dir():
        yield path / member if member else path
        return
    try:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            names = [
                name
                for name in archive.namelist()
                if not name.endswith("/") and name.startswith(f"{member}/" if member else "")
            ]
            # flat: names inside an archive may point anywhere
            target = Path(folder) / (Path(member).name or path.stem)
            target.mkdir()
            for number, name in enumerate(names):
                (target / f"{number:05d}").write_bytes(archive.read(name))
            yield target
    except FileNotFoundError:
        msg = f"{path.name}: no such file or folder. Check the path."
        raise VolumeError(msg) from None
    except zipfile.BadZipFile as error:
        msg = f"{path.name}: the archive is damaged. Download it again."
        raise VolumeError(msg) from error


def _dicom_grid(folder: Path) -> Grid:
    """Compute spacing and shape of the CT series in a folder from its headers."""
    positions, first = [], None
    for path in sorted(folder.iterdir()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError, ValueError):
            continue
        if "ImagePositionPatient" in header and header.get("Modality") == "CT":
            first = header if first is None else first
            positions.append([float(x) for x in header.ImagePositionPatient])
    if first is None or len(positions) < 2:
        msg = f"{folder.name}: no CT series inside. Give a folder of one series."
        raise VolumeError(msg)
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    along = np.sort(np.array(positions) @ normal)
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    affine[:3, 2] = normal * (along[-1] - along[0]) / (len(along) - 1)
    return Grid(affine, (int(first.Columns), int(first.Rows), len(positions)))
