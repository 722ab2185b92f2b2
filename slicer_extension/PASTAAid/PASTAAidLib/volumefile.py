"""Read a CT into memory in a thread, so that the GUI's thread only has to show it.

Slicer's own reader takes more than a second for a large CT, in the GUI's thread. Only files whose
meaning nobody can doubt are read here; `read_volume_file` gives None for all others, and Slicer's
reader takes them.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from PASTAAidLib.labelfile import nifti_header

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SAME_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class VolumeFile:
    """A CT.

    Attributes:
        voxels: int16 along k, j, i, as Slicer wants arrays; nobody else holds them.
        affine: (4, 4), voxel (i, j, k) to RAS+ mm, right-handed.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]


def read_volume_file(path: Path) -> VolumeFile | None:
    """Read a NIfTI file of whole HU; None if it is anything else, or could be read in two ways.

    Slicer turns left-handed files, and files whose two affines differ are for its reader to decide.

    Raises:
        OSError: if it cannot be read.
    """
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        header = nifti_header(data)
        if header.kind.newbyteorder("=") != np.dtype("i2") or header.scaled:
            return None
        affines = [affine for affine in (header.sform, header.qform) if affine is not None]
        if not affines or np.abs(affines[0] - affines[-1]).max() > _SAME_MM:
            return None
        if np.linalg.det(affines[0][:3, :3]) <= 0:
            return None
        count = int(np.prod(header.shape))
        voxels = np.frombuffer(data, header.kind, count, header.offset).reshape(header.shape[::-1])
    except (ValueError, KeyError, struct.error, EOFError, zlib.error, gzip.BadGzipFile):
        return None
    return VolumeFile(voxels.astype(np.int16), affines[0])
