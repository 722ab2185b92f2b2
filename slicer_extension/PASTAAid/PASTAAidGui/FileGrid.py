"""The voxel order of a CT as its NIfTI file has it; Slicer may hold the same CT turned.

Slicer's reader flips one axis of left-handed images. Masks go back to the server in the order of the
file, and the boxes of a report count in it.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

GEOMETRY_MM = 1e-2  # of a corner; Slicer reads affines in single precision
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Turn:
    """How to bring an array from one voxel order to another: axis `axes[n]`, by its sign.

    Attributes:
        axes: of the source, for each axis of the target.
        signs: -1 where the axis runs the other way.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]

    def array(self, voxels: np.ndarray) -> np.ndarray:
        """Turn an array; a view, not a copy."""
        return voxels.transpose(self.axes)[tuple(slice(None, None, sign) for sign in self.signs)]

    def box(self, box: Box, shape: Sequence[int]) -> Box:
        """Turn the bounds of a box in an array of the source's shape."""
        bounds = []
        for axis, sign in zip(self.axes, self.signs, strict=True):
            part, n = box[axis], shape[axis]
            bounds.append(part if sign > 0 else slice(n - part.stop, n - part.start))
        return bounds[0], bounds[1], bounds[2]

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Turn the affine of an array of the source's shape: the target's voxels to RAS."""
        between = np.zeros((4, 4))
        between[3, 3] = 1
        for target, (axis, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            between[axis, target] = sign
            between[axis, 3] = 0 if sign > 0 else shape[axis] - 1
        return affine @ between


AS_IS = Turn((0, 1, 2), (1, 1, 1))


def affineOf(volumeNode: Any) -> np.ndarray:
    """Voxels of a volume node to RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def shapeOf(volumeNode: Any) -> tuple[int, int, int]:
    """Voxels along i, j, k."""
    i, j, k = volumeNode.GetImageData().GetDimensions()
    return i, j, k


def sameAffine(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> bool:
    """Tell whether two affines put all corners of a grid at the same place."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array(shape) - 1
    return bool(np.abs(corners @ (one - other).T).max() < GEOMETRY_MM)


def turnBetween(
    source: np.ndarray, sourceShape: Sequence[int], target: np.ndarray, targetShape: Sequence[int]
) -> Turn | None:
    """Find how to turn one grid into another; None where they are not the same voxels."""
    between = np.linalg.inv(source) @ target
    whole = np.round(between[:3, :3]).astype(int)
    axes = tuple(int(axis) for axis in np.abs(whole).argmax(axis=0))
    if (np.abs(whole).sum(axis=0) != 1).any() or len(set(axes)) != 3:
        return None
    turn = Turn(axes, tuple(int(whole[axis, own]) for own, axis in enumerate(axes)))
    if tuple(sourceShape[axis] for axis in axes) != tuple(targetShape):
        return None
    if not sameAffine(turn.affine(source, sourceShape), target, targetShape):
        return None
    return turn


def turnToFile(volumeNode: Any) -> Turn:
    """Find how the voxels of a volume node are turned in the NIfTI file that it was read from.

    Volumes from elsewhere, such as DICOM, have no such file; Slicer's own order is theirs then.
    """
    storage = volumeNode.GetStorageNode()
    name = storage.GetFileName() if storage else None
    if not name or not str(name).lower().endswith((".nii", ".nii.gz")):
        return AS_IS
    with contextlib.suppress(OSError, EOFError, zlib.error, struct.error):
        affine, shape = affineOf(volumeNode), shapeOf(volumeNode)
        for target, targetShape in _niftiGrids(Path(name)):
            turn = turnBetween(affine, shape, target, targetShape)
            if turn is not None:
                return turn
    return AS_IS


def _niftiGrids(path: Path) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Read shape and the affines (sform, then qform) from the header of a NIfTI-1 or -2 file."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as file:
        head = file.read(540)
    order = "<" if struct.unpack_from("<i", head)[0] in (348, 540) else ">"
    second = struct.unpack_from(f"{order}i", head)[0] == 540
    at = (16, 104, 400, 352, 348, 344) if second else (40, 76, 280, 256, 254, 252)
    dim, pixdim, srow, quatern, sform, qform = at
    whole, real, code = ("q", "d", "i") if second else ("h", "f", "h")
    shape = struct.unpack_from(f"{order}4{whole}", head, dim)[1:]
    steps = struct.unpack_from(f"{order}4{real}", head, pixdim)
    grids = []
    if struct.unpack_from(f"{order}{code}", head, sform)[0] > 0:
        rows = struct.unpack_from(f"{order}12{real}", head, srow)
        grids.append((np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]), shape))
    if struct.unpack_from(f"{order}{code}", head, qform)[0] > 0:
        b, c, d, *offset = struct.unpack_from(f"{order}6{real}", head, quatern)
        a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine = np.eye(4)
        affine[:3, :3] = turn * [steps[1], steps[2], steps[3] * (-1 if steps[0] < 0 else 1)]
        affine[:3, 3] = offset
        grids.append((affine, shape))
    return grids
