"""What a data set hands to training: case records that name files, and what was wrong with the rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pasta.errors import PastaError
from pasta.labels import BACKGROUND, label_named, lesions_of
from training.datasets.licences import Licence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from training.datasets.summary import Summary

IGNORED = "ignored"  # nothing is known of these voxels
Meaning = tuple[str, ...]
Value = str | int | float | bool | None


class DatasetError(PastaError, ValueError):
    """A data set is not laid out as its reader expects, or a file of a case is missing or odd."""


class LicenceError(DatasetError):
    """The licence of a data set forbids what the caller wants to do."""


@dataclass(frozen=True, slots=True)
class Mask:
    """One file of labels and what its values mean.

    Attributes:
        path: labelmap file, DICOM folder, or zip archive.
        values: meaning of each stored value but 0. A meaning is the names of the labels that the
            voxel may have: one, or several where the data set does not tell them apart;
            ("background",) for what is certainly none of PASTA's labels, ("ignored",) where nothing
            is known.
        names: the data set's own name of each value.
        member: folder inside a zip archive.
    """

    path: Path
    values: Mapping[int, Meaning]
    names: Mapping[int, str] = field(default_factory=dict)
    member: str = ""

    def __post_init__(self) -> None:
        """Refuse unknown labels and freeze the mappings."""
        for value, meaning in self.values.items():
            if not meaning or (len(meaning) > 1 and set(meaning) & {BACKGROUND, IGNORED}):
                msg = (
                    f"{self.path.name}: value {value} has the meaning {meaning}; name labels alone."
                )
                raise DatasetError(msg)
            for name in meaning:
                if name not in {BACKGROUND, IGNORED}:
                    label_named(name)
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One case of a data set: files and their meaning, no voxels.

    Attributes:
        case: identifier of the case, unique in its data set; safe to print.
        patient: identifier of the patient, the unit of splits; never printed.
        images: a file or DICOM folder for each channel; one 4-D NIfTI file may hold all channels.
        masks: label files, painted one over the other in this order; empty where none is there.
        complete: organs and lesions of which every voxel in the field of view is labelled.
        channels: name of each channel; "CT" is read in HU.
        split: "train", "validation", "test" or "" where the data set says nothing.
        centre_ras_mm: a point in the lesion, RAS+ mm in the patient system of the image.
        attributes: report attributes, clinical data and endpoints.
        licence: of the images and labels.
        source: the data set and where it is published.
    """

    case: str
    patient: str = field(repr=False)
    images: tuple[Path, ...]
    masks: tuple[Mask, ...] = ()
    complete: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("CT",)
    split: str = ""
    centre_ras_mm: tuple[float, float, float] | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict, repr=False)
    licence: Licence = field(default_factory=Licence)
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse unknown labels and freeze the attributes."""
        for name in self.complete:
            label_named(name)
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    @property
    def label_path(self) -> Path | None:
        """The label file where there is exactly one."""
        return self.masks[0].path if len(self.masks) == 1 else None

    @property
    def label_mapping(self) -> dict[int, int]:
        """Stored value to label value, as far as the only mask maps to exactly one label."""
        if len(self.masks) != 1:
            return {}
        return {
            value: label_named(meaning[0]).value
            for value, meaning in self.masks[0].values.items()
            if len(meaning) == 1 and meaning[0] not in {BACKGROUND, IGNORED}
        }

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that the masks may hold, by label value."""
        names = {n for mask in self.masks for meaning in mask.values.values() for n in meaning}
        return tuple(
            sorted(names - {BACKGROUND, IGNORED}, key=lambda name: label_named(name).value)
        )

    @property
    def ambiguous(self) -> tuple[Meaning, ...]:
        """Meanings of several labels that the data set does not tell apart."""
        found = {m for mask in self.masks for m in mask.values.values() if len(m) > 1}
        return tuple(sorted(found))

    @property
    def hidden_lesions(self) -> tuple[str, ...]:
        """Lesions that may lie undrawn under the label of a completely labelled organ.

        Those of the organ's lesion types that the data set does not annotate; `hidden_lesions` of
        `training.losses.allowed_classes`.
        """
        annotated = set(self.complete) | {name for meaning in self.ambiguous for name in meaning}
        return tuple(
            lesion.name
            for name in self.complete
            if label_named(name).kind == "organ"
            for lesion in lesions_of(name)
            if lesion.name not in annotated
        )

    def with_patient(self, patient: str) -> CaseRecord:
        """Return the record of the same case under another patient identifier."""
        return replace(self, patient=patient)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a case; the rest of the data set goes on.

    Attributes:
        case: which; empty for the data set as a whole.
        message: file, what was found, and the mend.
    """

    case: str
    message: str

    def __str__(self) -> str:
        """Write case and message in one line."""
        return f"{self.case}: {self.message}" if self.case else self.message


@dataclass(frozen=True, slots=True)
class Origin:
    """Where people get a data set.

    Attributes:
        title: its name.
        page: official page.
        licence: as the publisher states it; read the page before you rely on it.
        needs: what the reader expects below the root.
    """

    title: str
    page: str
    licence: Licence
    needs: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable cases of a data set, and what was wrong with the others.

    Attributes:
        kind: of the reader.
        origin: where the data set comes from.
        cases: by case identifier.
        problems: of cases left out, and doubts about those that stayed.
    """

    kind: str
    origin: Origin
    cases: tuple[CaseRecord, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len({case.patient for case in self.cases})

    def labelled(self) -> tuple[CaseRecord, ...]:
        """List the cases that have masks."""
        return tuple(case for case in self.cases if case.masks)

    def describe(self, *, voxels: bool = False) -> Summary:
        """Count cases, labels and problems; see `training.datasets.summary.describe`."""
        from training.datasets.summary import describe

        return describe(self, voxels=voxels)

    def for_shipping(self) -> Dataset:
        """Leave out every case whose licence forbids shipping weights trained on it.

        Raises:
            LicenceError: if no case is left.
        """
        kept, refused = [], []
        for case in self.cases:
            why = case.licence.refusal()
            if why:
                refused.append(Problem(case.case, f"not for weights that are shipped: {why}."))
            else:
                kept.append(case)
        if refused and not kept:
            msg = (
                f"{self.origin.title}: not for weights that are shipped: "
                f"{self.cases[0].licence.refusal()}. Train without it, or keep the weights."
            )
            raise LicenceError(msg)
        return replace(self, cases=tuple(kept), problems=(*self.problems, *refused))


def meanings(names: Mapping[int, str]) -> dict[int, Meaning]:
    """Give each value the one label, "background" or "ignored" that it is named after."""
    return {value: (name,) for value, name in names.items()}


def ordered_cases(cases: Iterable[CaseRecord]) -> tuple[CaseRecord, ...]:
    """Sort cases by identifier, numbers by their value.

    Raises:
        DatasetError: if an identifier occurs twice.
    """
    found = sorted(cases, key=lambda case: _natural(case.case))
    seen: set[str] = set()
    for case in found:
        if case.case in seen:
            msg = f"{case.case}: two cases have this identifier. Rename one of them."
            raise DatasetError(msg)
        seen.add(case.case)
    return tuple(found)


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    parts: list[tuple[int, str]] = []
    digits = ""
    for letter in f"{text}\0":
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, letter))
    return tuple(parts)


def without_suffix(name: str, suffixes: Collection[str] = (".nii.gz", ".nii")) -> str:
    """Take an image suffix off a file's name."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
