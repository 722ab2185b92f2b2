"""From a CT and its organ labelmap to a template: orientation, 1 mm, tissues, phase, scan range."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage

from pasta.errors import LabelError, PastaError
from pasta.geometry import Volume, reoriented
from pasta.io import read_labelmap, read_volume
from pasta.labels import LESIONS, ORGANS, label_named
from pasta.preprocessing.resampling import GridMap, grid_map, resampled
from pasta.report.attributes import ENHANCED
from pasta.trunk import VESSEL_HU, measured_enhancement, trunk_of
from training.synthesis.templates import (
    AXCODES,
    BLOCKED_MARGIN_MM,
    HIGHEST_HU,
    LOWEST_HU,
    SPACING_MM,
    TISSUES,
    ScanRange,
    Template,
    TemplateError,
    TemplateStore,
    tissues_by_hu,
)
from training.tissues import (
    LABEL_OF_TISSUE,
    TOTALSEGMENTATOR_V1,
    TOTALSEGMENTATOR_V2,
    tissue_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PASTA = {label.value: label.name for label in (*ORGANS, *LESIONS)}
# the 3 mm models (`--fast`) number as the full ones do
SCHEMES: Mapping[str, Mapping[int, str]] = {
    "pasta": PASTA,
    "totalsegmentator_v1": TOTALSEGMENTATOR_V1,
    "totalsegmentator_v1_fast": TOTALSEGMENTATOR_V1,
    "totalsegmentator_v2": TOTALSEGMENTATOR_V2,
    "totalsegmentator_v2_fast": TOTALSEGMENTATOR_V2,
}
MARGIN_MM = 8  # kept around the body
COARSE_MM = 1.3  # labelmaps with larger voxels are smoothed on the way to 1 mm
SMOOTHING_VOXELS = 0.7
MIN_VESSEL_MM3 = 300.0
MIN_CORE_VOXELS = 50
_YES_NO: Mapping[str, bool | None] = {"": None, "yes": True, "no": False}
_LESIONS = frozenset(lesion.name for lesion in LESIONS)

# prefix of a structure's name to a tissue of `TISSUES`; organs are told by `tissue_of`
_TISSUE_PREFIXES: tuple[tuple[str, str], ...] = (
    ("aorta", "aorta"),
    ("inferior_vena_cava", "vena_cava"),
    ("superior_vena_cava", "vena_cava"),
    ("portal_vein", "portal_vein"),
    ("pulmonary_artery", "artery"),
    ("spleen", "spleen"),
    ("adrenal", "adrenal"),
    ("trachea", "trachea"),
    ("duodenum", "duodenum"),
    ("small_bowel", "small_bowel"),
    ("thyroid", "thyroid"),
    ("brain", "brain"),
)
_FROM_PROJECT = {
    "artery": "artery",
    "vein": "vein",
    "heart": "heart",
    "muscle": "muscle",
    "prostate": "prostate",
    "spinal_cord": "spinal_cord",
    "cartilage": "cartilage",
}
_V1_VALUE = {name: value for value, name in TOTALSEGMENTATOR_V1.items()}
# one v1 value stands for an organ whose parts a labelmap does not tell apart
_COARSE_V1 = {
    "liver": "liver",
    "gallbladder": "gallbladder",
    "pancreas": "pancreas",
    "esophagus": "esophagus",
    "stomach": "stomach",
    "colorectum": "colon",
    "bladder": "urinary_bladder",
    "bone": "sacrum",
    "lung": "lung_lower_lobe_right",
    "kidney": "kidney_right",
}
_OTHER_NAMES = {"kidney_cyst_left": "kidney_left", "kidney_cyst_right": "kidney_right"}

# what an impression calls the organs; a mention excludes the organ (paper, Methods 1.4)
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "lung": ("lung", "lungs", "pulmonary", "lobe", "bronch*", "pleura*"),
    "liver": ("liver", "hepat*"),
    "gallbladder": ("gallbladder", "gall bladder", "cholecyst*", "cholelith*", "gallstone*"),
    "pancreas": ("pancrea*",),
    "esophagus": ("esophag*", "oesophag*"),
    "stomach": ("stomach", "gastric", "gastro*"),
    "colorectum": ("colon*", "colorect*", "rectum", "rectal", "sigmoid", "cecum", "caecum"),
    "kidney": ("kidney*", "renal", "nephr*", "hydroneph*"),
    "bladder": ("bladder", "urinary bladder"),
    "bone": (
        *("bone*", "osseous", "osteo*", "skelet*", "rib", "ribs", "fracture*"),
        *("vertebra*", "spine", "spinal", "sacrum", "pelvic bone*", "femur"),
    ),
}


@dataclass(frozen=True, slots=True)
class CaseSource:
    """One case to import.

    Attributes:
        ct: volume file or DICOM series folder.
        labelmap: on the grid of the CT.
        scheme: key of `SCHEMES`, or path of a JSON file that names the structure of each value.
        id: name in the store; "" makes one from the content of the files.
        lesions: mask of known lesions on the grid of the CT, any non-zero value; or None.
        impression: of the radiology report; organs that it mentions are not used.
        contrast: what is known of the contrast agent; None lets aorta and vena cava tell.
        licence: of the CT.
        source: where it came from.
    """

    ct: Path
    labelmap: Path
    scheme: str
    id: str = ""
    lesions: Path | None = None
    impression: str = ""
    contrast: bool | None = None
    licence: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: its template, or one sentence on why there is none."""

    case: str
    template: str | None
    problem: str = ""
    warnings: tuple[str, ...] = ()


def names_of_scheme(scheme: str) -> Mapping[int, str]:
    """Structure names of a labelmap's values.

    Raises:
        LabelError: if the scheme is unknown, or its file names structures that nobody knows.
    """
    if scheme in SCHEMES:
        return SCHEMES[scheme]
    path = Path(scheme)
    if path.suffix != ".json":
        known = ", ".join(SCHEMES)
        msg = f"label scheme {scheme!r}: unknown; use {known}, or a JSON file of value to name."
        raise LabelError(msg)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {int(value): str(name) for value, name in document.items()}
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{path.name}: not a JSON object of label value to structure name ({error})."
        raise LabelError(msg) from error
    unknown = sorted({name for name in names.values() if not _is_known(name)})
    if unknown:
        msg = (
            f"{path.name}: unknown structures {', '.join(unknown[:6])}. Use the names of "
            "TotalSegmentator or of pasta.labels."
        )
        raise LabelError(msg)
    return names


def template_of(case: CaseSource) -> tuple[Template, NDArray[np.uint8]]:
    """Make a template of one case.

    Returns:
        The template and its TotalSegmentator v1 values.

    Raises:
        PastaError: if a file cannot be read, grids differ, label values are unknown, the vessels that
            tell the phase are missing, or no organ is labelled; the message names the mend.
    """
    names = names_of_scheme(case.scheme)
    ct = read_volume(case.ct)
    labelmap = read_labelmap(case.labelmap, ct.grid, highest=255)
    values = {int(value) for value in np.unique(labelmap.voxels)} - {0}
    unknown = sorted(values - set(names))
    if unknown:
        shown = ", ".join(map(str, unknown[:8]))
        msg = (
            f"{case.labelmap.name}: label values {shown} are not in {case.scheme}. Name the scheme "
            "the map was made with, or map them in a JSON file."
        )
        raise LabelError(msg)
    known = _lesion_mask(case, ct)
    plan = grid_map(ct.grid, AXCODES, (SPACING_MM,) * 3)
    hu = hu_at_1mm(ct, plan)
    structures = labels_at_1mm(reoriented(labelmap, AXCODES).voxels, plan)
    lesions = _lesions_at_1mm(known, labelmap, names, plan)
    box = _body_box(hu, structures)
    hu = np.ascontiguousarray(hu[box])
    structures = np.ascontiguousarray(structures[box])
    lesions = np.ascontiguousarray(lesions[box])
    affine = plan.model.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box])
    slice_mm = ct.acquisition.slice_thickness_mm or plan.turned.spacing_mm[2]
    contrast, doubts = _contrast(case, hu, structures, names, ct, labelmap)
    template, total = build_template(
        case.id or f"t{ct.sha256[:6]}{labelmap.sha256[:6]}",
        hu,
        structures,
        names,
        lesions=lesions,
        affine=affine,
        slice_mm=float(slice_mm),
        contrast=contrast,
        licence=case.licence,
        source=case.source,
        excluded=mentioned_organs(case.impression),
        warnings=(*ct.warnings, *labelmap.warnings, *doubts),
    )
    if not template.organs:
        msg = f"{case.labelmap.name}: none of the ten organs is labelled. Check the label scheme."
        raise LabelError(msg)
    return template, total


def build_template(
    template_id: str,
    hu: NDArray[np.int16],
    structures: NDArray[np.uint8],
    names: Mapping[int, str],
    *,
    lesions: NDArray[np.bool_] | None = None,
    **rest: Any,
) -> tuple[Template, NDArray[np.uint8]]:
    """Build a template from arrays that are at 1 mm along L, P, S already.

    Args:
        template_id: name.
        hu: (I, J, K).
        structures: (I, J, K) values of `names`.
        names: structure of each value.
        lesions: (I, J, K) existing lesions.
        **rest: other fields of `Template.from_arrays`.

    Returns:
        The template and its TotalSegmentator v1 values.
    """
    labels, known, total = (table[structures] for table in _tables(names))
    _split_sides(labels, total, names)
    if lesions is not None and lesions.any():
        rest["blocked"] = _dilated(lesions)
    tissues = tissues_by_hu(hu, labels, known)
    rest.setdefault("scan_range", scan_range_of({names[v] for v in np.unique(structures) if v}))
    return Template.from_arrays(template_id, hu, labels, tissues, **rest), total


def import_cases(
    cases: Sequence[CaseSource],
    store: TemplateStore,
    *,
    overwrite: bool = False,
    report: Callable[[Outcome], None] = lambda _outcome: None,
) -> list[Outcome]:
    """Import cases one after the other; one that fails does not stop the rest.

    Args:
        cases: to import.
        store: to put them in.
        overwrite: replace templates of the same name; else those are kept and counted as done.
        report: called after every case.

    Raises:
        OutputError: if the store cannot be written; the rest would fail alike.
    """
    outcomes = []
    present = set(store.ids())
    for number, case in enumerate(cases, start=1):
        name = case.id or f"case {number}"
        if case.id in present and not overwrite:
            outcome = Outcome(name, case.id)
        else:
            try:
                template, total = template_of(case)
                if template.id in present and not overwrite:
                    outcome = Outcome(name, template.id)
                else:
                    store.put(template, total, overwrite=overwrite)
                    outcome = Outcome(name, template.id, warnings=template.warnings)
                present.add(template.id)
            except OSError:
                raise
            except PastaError as error:
                outcome = Outcome(name, None, str(error))
        outcomes.append(outcome)
        report(outcome)
    return outcomes


def read_case_list(path: Path) -> list[CaseSource]:
    """Read a CSV of cases; paths are relative to its folder.

    Columns: ct, labelmap, scheme; and if wanted id, lesions, impression, contrast (yes or no),
    licence, source.

    Raises:
        TemplateError: if it cannot be read, or a row lacks ct, labelmap or scheme.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: not readable as CSV ({error}). Save it as UTF-8 CSV."
        raise TemplateError(msg) from error
    cases = []
    for line, row in enumerate(rows, start=2):
        cell = {key: (value or "").strip() for key, value in row.items() if key}
        missing = [key for key in ("ct", "labelmap", "scheme") if not cell.get(key)]
        word = cell.get("contrast", "").lower()
        if missing or word not in _YES_NO:
            what = f"no {', '.join(missing)}" if missing else "contrast is neither yes nor no"
            msg = f"{path}, line {line}: {what}. Each row needs ct, labelmap and scheme."
            raise TemplateError(msg)
        scheme = cell["scheme"]
        cases.append(
            CaseSource(
                path.parent / cell["ct"],
                path.parent / cell["labelmap"],
                scheme if scheme in SCHEMES else str(path.parent / scheme),
                cell.get("id", ""),
                path.parent / cell["lesions"] if cell.get("lesions") else None,
                cell.get("impression", ""),
                _YES_NO[word],
                cell.get("licence", ""),
                cell.get("source", ""),
            )
        )
    return cases


def mentioned_organs(impression: str) -> dict[str, str]:
    """Find the organs that an impression mentions, negated or not, as the paper's keyword search."""
    text = impression.lower()
    found = {}
    for organ, words in KEYWORDS.items():
        if organ == "bladder":
            text = re.sub(r"gall[ -]?bladder", " ", text)
        for word in words:
            pattern = r"\b" + re.escape(word).replace(r"\*", r"\w*") + r"\b"
            if re.search(pattern, text):
                found[organ] = f"the impression mentions {organ}"
                break
    return found


def scan_range_of(structures: set[str]) -> ScanRange:
    """Class of the scan range by the structures in it (paper, Methods 1.4)."""
    chest = {"vertebrae_T1", "lung_upper_lobe_left", "lung_upper_lobe_right"} <= structures
    if chest and "urinary_bladder" in structures:
        return "thorax-abdomen-pelvis"
    if chest and "vertebrae_L5" not in structures:
        return "thorax"
    if {"vertebrae_T8", "urinary_bladder"} <= structures and "vertebrae_T1" not in structures:
        return "abdomen-pelvis"
    return "other"


def labels_at_1mm(values: NDArray[Any], plan: GridMap) -> NDArray[np.uint8]:
    """Bring a labelmap to the template's grid; coarse ones without their stairs.

    Voxels above 1.3 mm would become visible steps in every organ wall: there each label is smoothed
    by 0.7 voxels, interpolated, and the strongest one taken.

    Args:
        values: on `plan.turned`.
        plan: from the native grid to 1 mm.
    """
    weights = plan.forward_weights(antialias=False)
    if max(plan.turned.spacing_mm) <= COARSE_MM:
        nearest = [row.argmax(dim=1).numpy() for row in weights]
        return np.ascontiguousarray(values[np.ix_(*nearest)], dtype=np.uint8)
    best = np.full(plan.model.shape, 0.5, np.float32)
    fine = np.zeros(plan.model.shape, np.uint8)
    claimed = np.zeros(plan.model.shape, np.float32)  # by all labels together
    runner = np.zeros(plan.model.shape, np.float32)
    second = np.zeros(plan.model.shape, np.uint8)
    for value, box in enumerate(ndimage.find_objects(values.astype(np.uint8)), start=1):
        if box is None:
            continue
        source = tuple(
            slice(max(0, part.start - 3), min(n, part.stop + 3))
            for part, n in zip(box, values.shape, strict=True)
        )
        target, rows = [], []
        for row, part in zip(weights, source, strict=True):
            touched = torch.nonzero(row[:, part].sum(dim=1) > 0.999).ravel()
            first, last = int(touched[0]), int(touched[-1]) + 1
            target.append(slice(first, last))
            rows.append(row[first:last, part])
        mask = (values[source] == value).astype(np.float32)
        soft = ndimage.gaussian_filter(mask, SMOOTHING_VOXELS, mode="nearest")
        share = resampled(torch.from_numpy(soft), (rows[0], rows[1], rows[2])).numpy()
        here = (target[0], target[1], target[2])
        claimed[here] += share
        stronger = share > runner[here]
        runner[here][stronger] = share[stronger]
        second[here][stronger] = value
        stronger = share > best[here]
        best[here][stronger] = share[stronger]
        fine[here][stronger] = value
    # where three labels meet none has half; background wins only where it is the strongest
    between = (fine == 0) & (claimed > 0.5)
    fine[between] = second[between]
    return fine


def hu_at_1mm(ct: Volume, plan: GridMap) -> NDArray[np.int16]:
    """Resample a CT to the template's grid, linear, and clip it to the range of HU."""
    turned = reoriented(ct, AXCODES).voxels
    hu = torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))
    fine = resampled(hu, plan.forward_weights(antialias=True)).numpy()
    whole: NDArray[np.int16] = np.clip(np.rint(fine), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return whole


def _lesion_mask(case: CaseSource, ct: Volume) -> NDArray[np.bool_] | None:
    if case.lesions is None:
        return None
    mask = read_labelmap(case.lesions, ct.grid, highest=255)
    return np.asarray(reoriented(mask, AXCODES).voxels > 0)


def _lesions_at_1mm(
    known: NDArray[np.bool_] | None, labelmap: Volume, names: Mapping[int, str], plan: GridMap
) -> NDArray[np.bool_]:
    turned = reoriented(labelmap, AXCODES).voxels
    values = [v for v, n in names.items() if n in _LESIONS or n.startswith("kidney_cyst_")]
    lesions = np.isin(turned, values)
    if known is not None:
        lesions |= known
    if not lesions.any():
        return np.zeros(plan.model.shape, bool)
    return labels_at_1mm(lesions.astype(np.uint8), plan) > 0


def _dilated(lesions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    box = ndimage.find_objects(lesions.astype(np.uint8))[0]
    margin = int(BLOCKED_MARGIN_MM) + 1
    wide = tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(box, lesions.shape, strict=True)
    )
    blocked = np.zeros_like(lesions)
    blocked[wide] = ndimage.distance_transform_edt(~lesions[wide]) <= BLOCKED_MARGIN_MM
    return blocked


def _body_box(hu: NDArray[np.int16], structures: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Cut air away at the sides; no slice is lost."""
    coarse = ndimage.binary_opening(hu[::3, ::3, ::3] > -400)
    parts, count = ndimage.label(coarse)
    body = np.zeros_like(coarse)
    if count:
        body = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    body |= structures[::3, ::3, ::3] > 0
    if not body.any():
        body[:] = True
    bounds = []
    for axes, n in (((1, 2), hu.shape[0]), ((0, 2), hu.shape[1])):
        span = np.flatnonzero(body.any(axis=axes)) * 3
        bounds.append(
            slice(max(0, int(span[0]) - MARGIN_MM), min(n, int(span[-1]) + 3 + MARGIN_MM))
        )
    return bounds[0], bounds[1], slice(0, hu.shape[2])


def _contrast(
    case: CaseSource,
    hu: NDArray[np.int16],
    structures: NDArray[np.uint8],
    names: Mapping[int, str],
    ct: Volume,
    labelmap: Volume,
) -> tuple[bool, tuple[str, ...]]:
    """Apply the paper's rule: not enhanced if aorta and inferior vena cava are both below 80 HU."""
    if case.contrast is not None:
        return case.contrast, ()
    found: dict[str, float] = {}
    for value, name in names.items():
        if name in {"aorta", "inferior_vena_cava"}:
            vessel = structures == value
            if vessel.sum() >= MIN_VESSEL_MM3:
                core = ndimage.binary_erosion(vessel, iterations=2)  # off the fat around it
                found[name] = float(hu[core if core.sum() >= MIN_CORE_VOXELS else vessel].mean())
    if found:
        lacking = {"aorta", "inferior_vena_cava"} - set(found)
        doubt = tuple(
            f"Contrast was judged without the {name.replace('_', ' ')}." for name in lacking
        )
        return max(found.values()) >= VESSEL_HU, doubt
    if "aorta" in names.values():
        msg = (
            f"{case.labelmap.name}: neither aorta nor inferior vena cava is labelled, so the phase "
            "is unknown. Say whether contrast agent was given (contrast: yes or no)."
        )
        raise LabelError(msg)
    measured = measured_enhancement(trunk_of(ct), labelmap)
    if measured.value is None:
        msg = (
            f"{case.ct.name}: no vessels are labelled and the blood in front of the spine was not "
            "found. Say whether contrast agent was given (contrast: yes or no)."
        )
        raise LabelError(msg)
    doubt = ("Contrast was judged by the blood in front of the spine; no vessel is labelled.",)
    return measured.value == ENHANCED, doubt


def _is_known(structure: str) -> bool:
    if structure in PASTA.values() or structure in _OTHER_NAMES:
        return True
    try:
        tissue_of(structure)
    except KeyError:
        return False
    return True


def _organ_of(structure: str) -> str | None:
    if structure in PASTA.values():
        return label_named(structure).organ
    return LABEL_OF_TISSUE.get(tissue_of(structure))


def _tables(
    names: Mapping[int, str],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Look-up tables from label values to organs, tissues and TotalSegmentator v1 values."""
    labels, tissues, total = (np.zeros(256, np.uint8) for _ in range(3))
    for value, name in names.items():
        organ = _organ_of(name)
        if organ is not None:
            labels[value] = label_named(organ).value
            same = _OTHER_NAMES.get(name, name)
            total[value] = _V1_VALUE.get(same) or (
                _V1_VALUE[_COARSE_V1[organ]] if name in PASTA.values() else 0
            )
            continue
        total[value] = _V1_VALUE.get(name, 0)
        for prefix, tissue in _TISSUE_PREFIXES:
            if name.startswith(prefix):
                tissues[value] = TISSUES[tissue]
                break
        else:
            tissues[value] = TISSUES[_FROM_PROJECT[tissue_of(name)]]
    return labels, tissues, total


def _split_sides(
    labels: NDArray[np.uint8], total: NDArray[np.uint8], names: Mapping[int, str]
) -> None:
    """Tell left kidney and lung from right ones where the labelmap does not (axis 0 runs to L)."""
    if "kidney" not in names.values():
        return
    bone = ndimage.find_objects((labels == label_named("bone").value).astype(np.uint8))
    middle = labels.shape[0] // 2
    if bone and bone[0] is not None:
        middle = (bone[0][0].start + bone[0][0].stop) // 2
    for organ, left in (("kidney", "kidney_left"), ("lung", "lung_lower_lobe_left")):
        half = total[middle:]
        half[labels[middle:] == label_named(organ).value] = _V1_VALUE[left]
