"""The tasks of the app."""

from lib.infers.base import Inputs, Outcome, PastaTask
from lib.infers.diagnosis import Diagnosis
from lib.infers.report import Report
from lib.infers.screening import Screening
from lib.infers.segmentation import Segmentation

TASKS = (Segmentation, Screening, Report, Diagnosis)

__all__ = ["TASKS", "Inputs", "Outcome", "PastaTask"]
