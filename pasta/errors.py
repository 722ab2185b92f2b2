"""The errors that PASTA-AID foresees: each message names the file or field and the mend."""


class PastaError(Exception):
    """Anything foreseen that stops the work; commands print it as one line, servers as one sentence."""


class VolumeError(PastaError, ValueError):
    """An image cannot be read, or is not one 3-D CT volume."""


class LabelError(PastaError, ValueError):
    """A label, organ or label value is unknown, or a labelmap does not fit its volume."""


class ReportError(PastaError, ValueError):
    """A report file or an attribute value does not follow the schema."""


class CheckpointError(PastaError, ValueError):
    """Weights or a model specification are missing, damaged or do not fit the network."""


class DeviceError(PastaError, ValueError):
    """The device asked for is unknown or not there."""


class OutputError(PastaError, OSError):
    """A result cannot be written (no space, no permission)."""


class DicomError(PastaError, ValueError):
    """A DICOM object cannot be made of what is given, or one that was read is not what it should be."""


class PacsError(PastaError):
    """The PACS does not answer, or refuses."""


class StoreError(PastaError):
    """The store of images and labels refuses a request."""


class CancelledError(PastaError):
    """The caller asked to stop; nothing was written."""
