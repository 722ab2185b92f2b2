"""highdicom 0.22, the newest for pydicom 2, with NumPy 2: it names two things that NumPy took out.

`import pasta.dicom` applies it, to highdicom's own modules alone; NumPy stays as it is.
"""

from __future__ import annotations

import types
import warnings
from typing import Any

import numpy as np


class _Numpy(types.ModuleType):
    """NumPy as highdicom 0.22 knows it."""

    float_ = np.float64
    row_stack = staticmethod(np.vstack)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def apply() -> None:
    """Mend highdicom, and keep its and pydicom's warnings, which quote names and UIDs, out of logs.

    Raises:
        DicomError: if the extra `dicom` is not installed.
    """
    from pasta.errors import DicomError

    # before the import: it warns while it is imported too
    for package in ("highdicom", "pydicom"):
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
    try:
        import highdicom.seg.sop
        import highdicom.spatial
    except ModuleNotFoundError as error:
        msg = f"{error.name} is not installed. Install the extra: pip install 'pasta-aid[dicom]'."
        raise DicomError(msg) from error
    numpy = _Numpy("numpy")
    highdicom.seg.sop.np = numpy
    highdicom.spatial.np = numpy
