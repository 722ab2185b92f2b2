"""DICOM objects of our results, and the way to a PACS. Needs the extra `dicom`.

Unlike our JSON and NIfTI, these objects name the patient: they belong into the study that the CT came
from. Neither names nor UIDs go into logs or messages.
"""

from pasta.dicom import mends

mends.apply()

from pasta.dicom.source import Source, read_source

__all__ = ["Source", "read_source"]
