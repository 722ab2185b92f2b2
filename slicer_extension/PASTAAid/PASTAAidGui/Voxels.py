"""Voxels of masks: boxes, connected parts, images of VTK, labelmaps in files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from scipy import ndimage
from vtk.util.numpy_support import vtk_to_numpy

from pasta.errors import LabelError

from .FileGrid import Box, Turn, affineOf, sameAffine, shapeOf, turnBetween, turnToFile

COARSE_FROM = 4_000_000  # voxels of a lesion zone from which components are sought coarsely first
COARSE = 4


def areNear(one: Box, other: Box) -> bool:
    """Tell whether two boxes overlap or touch."""
    return all(a.start <= b.stop and b.start <= a.stop for a, b in zip(one, other, strict=True))


def unionOf(boxes: Iterable[Box]) -> Box:
    """Find the box around boxes."""
    boxes = list(boxes)
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )


def withinBox(outer: Box, inner: Box) -> Box:
    """Place a box that counts from the corner of another."""
    return tuple(
        slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner, strict=True)
    )


def insideOf(inner: Box, outer: Box) -> Box:
    """Count a box from the corner of another."""
    return tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )


def connectedParts(mask: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """Separate connected parts (26 neighbours); each with its box and its mask in that box.

    Far-flung specks make the zone of a label as large as the CT, so large zones are first
    separated on blocks of 4 x 4 x 4 voxels: parts in blocks that do not touch cannot touch.
    """
    cube = np.ones((3, 3, 3))
    if mask.size < COARSE_FROM:
        parts, _count = ndimage.label(mask, structure=cube)
        boxes = ndimage.find_objects(parts)
        return [(box, parts[box] == number) for number, box in enumerate(boxes, start=1)]
    blocks = mask
    for axis in range(3):
        blocks = np.logical_or.reduceat(blocks, np.arange(0, mask.shape[axis], COARSE), axis=axis)
    groups, _count = ndimage.label(blocks, structure=cube)
    found = []
    for group, coarse in enumerate(ndimage.find_objects(groups), start=1):
        zone = tuple(
            slice(part.start * COARSE, min(part.stop * COARSE, n))
            for part, n in zip(coarse, mask.shape, strict=True)
        )
        own = groups[coarse] == group
        for axis in range(3):
            own = own.repeat(COARSE, axis=axis)
        inner = mask[zone]
        inner = inner & own[tuple(slice(n) for n in inner.shape)]
        parts, _count = ndimage.label(inner, structure=cube)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            found.append((withinBox(zone, box), parts[box] == number))
    return found


def boxesOf(voxels: np.ndarray, highest: int) -> list[Box | None]:
    """Find the box of each label value from 1 to `highest`; None where it is absent."""
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.int32)
    # Voxels lie with i fastest; against that order the same search takes 1 s of a large CT.
    boxes = ndimage.find_objects(voxels.T, max_label=highest)
    return [box and box[::-1] for box in boxes]


def turnToLps(volumeNode: Any) -> Turn:
    """Find the voxel axes nearest to L, P, S with their directions; the report counts in these."""
    directions = affineOf(volumeNode)[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    free = np.abs(directions).copy()
    axes, signs = [0, 0, 0], [1, 1, 1]
    for _step in range(3):
        world, axis = np.unravel_index(int(np.argmax(free)), free.shape)
        axes[world] = int(axis)
        towards = 1 if directions[world, axis] > 0 else -1
        signs[world] = towards if world == 2 else -towards
        free[world, :] = -1
        free[:, axis] = -1
    return Turn(tuple(axes), tuple(signs))


def sizeMm(shape: Sequence[int], affine: np.ndarray) -> tuple[float, float, float]:
    """Extent of a box along z, x, y, each by the voxel axis nearest to it, as the report does."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    free = np.abs(affine[:3, :3] / spacing)
    extent = [0.0, 0.0, 0.0]
    for _step in range(3):
        world, axis = np.unravel_index(int(np.argmax(free)), free.shape)
        extent[world] = float(shape[axis] * spacing[axis])
        free[world, :] = -1
        free[:, axis] = -1
    return extent[2], extent[0], extent[1]


def voxelMm3(volumeNode: Any) -> float:
    """Compute the volume of a voxel, mm3."""
    return abs(float(np.linalg.det(affineOf(volumeNode)[:3, :3])))


def voxelsOf(image: Any) -> np.ndarray:
    """View the voxels of an image along i, j, k."""
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions(), order="F")


def imageOver(volumeNode: Any, box: Box, kind: Any) -> tuple[Any, np.ndarray]:
    """Make an image over a box of the CT; return it with a view of its voxels, not yet set."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return _empty(box, matrix, kind)


def _empty(box: Box, matrix: Any, kind: Any) -> tuple[Any, np.ndarray]:
    image = slicer.vtkOrientedImageData()
    image.SetExtent([bound for part in box for bound in (part.start, part.stop - 1)])
    image.SetImageToWorldMatrix(matrix)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR if kind == np.uint8 else vtk.VTK_UNSIGNED_SHORT, 1)
    return image, voxelsOf(image)


def placedImage(mask: np.ndarray, corner: Sequence[int], matrix: Any) -> Any:
    """Make an image of a mask whose first voxel is at `corner`."""
    box = tuple(slice(first, first + n) for first, n in zip(corner, mask.shape, strict=True))
    image, voxels = _empty(box, matrix, np.uint8)
    voxels[:] = mask
    return image


def _read(path: Path) -> Any:
    """Read a labelmap into a volume node outside the scene: no events, nothing to clean up."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(True)
    node = slicer.vtkMRMLLabelMapVolumeNode()
    if not _isWhole(path) or not storage.ReadData(node) or node.GetImageData() is None:
        msg = f"{path.name}: this labelmap cannot be read; fetch it again."
        raise LabelError(msg)
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        msg = f"{path.name}: expected one value a voxel; save one labelmap per file."
        raise LabelError(msg)
    return node


def _isWhole(path: Path) -> bool:
    """Tell whether a file is there to its end; Slicer's reader takes a torn .gz for empty slices."""
    if not path.is_file():
        return False
    if path.suffix.lower() != ".gz":
        return True
    try:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def readOnGrid(path: Path, volumeNode: Any) -> np.ndarray:
    """Read a labelmap in the voxel order of the CT; it may be stored with turned axes."""
    node = _read(path)
    voxels = voxelsOf(node.GetImageData())
    if voxels.dtype.kind == "f":
        whole = voxels.astype(np.int32)
        if (whole != voxels).any():
            msg = f"{path.name}: expected whole label values, found fractions."
            raise LabelError(msg)
        voxels = whole
    affine, shape = affineOf(volumeNode), shapeOf(volumeNode)
    if voxels.shape == shape and sameAffine(affineOf(node), affine, shape):
        return voxels
    turn = turnBetween(affineOf(node), voxels.shape, affine, shape)
    if turn is not None:
        return turn.array(voxels)
    msg = (
        f"{path.name}: has {voxels.shape} voxels elsewhere than the CT with {shape}; "
        "resample it to the CT first."
    )
    raise LabelError(msg)


def writeLabelmap(voxels: np.ndarray, volumeNode: Any, path: Path) -> None:
    """Write a labelmap in the voxel order of the CT's file and read it back."""
    toFile = turnToFile(volumeNode)
    turned = toFile.array(voxels)
    matrix = slicer.util.vtkMatrixFromArray(toFile.affine(affineOf(volumeNode), voxels.shape))
    image = vtk.vtkImageData()
    image.SetDimensions(turned.shape)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxelsOf(image)[:] = turned
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrix)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(node):
        msg = f"{path.name}: the labelmap could not be written; is the disk full?"
        raise LabelError(msg)
    try:
        again = readOnGrid(path, volumeNode)
    except LabelError as error:
        msg = f"{path.name}: the geometry changed on writing; this format cannot hold the CT's."
        raise LabelError(msg) from error
    if not np.array_equal(again, voxels):
        msg = f"{path.name}: the labelmap reads back differently; the disk may be at fault."
        raise LabelError(msg)
