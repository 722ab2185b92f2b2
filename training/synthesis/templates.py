"""Templates: healthy CT on a 1 mm LPS grid with its organs, that lesions are drawn into.

A store is a folder with one folder per template; arrays are memory-mapped, so that many processes
share one copy. `training.synthesis.standardisation` fills it from a CT and its labelmap.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pasta.errors import OutputError, PastaError
from pasta.geometry import FloatArray, Grid, Shape
from pasta.io.files import atomic_file
from pasta.labels import LESIONS, ORGANS, label_named, organ_named

if TYPE_CHECKING:
    from collections.abc import Iterator

Box = tuple[slice, slice, slice]
ScanRange = Literal["thorax", "abdomen-pelvis", "thorax-abdomen-pelvis", "other"]

AXCODES = "LPS"
SPACING_MM = 1.0
AIR_HU, LOWEST_HU, HIGHEST_HU = -1000, -1024, 3071
MIN_ORGAN_MM3 = 4000.0  # paper, Methods 1.4: smaller organs are not used
REACH_MM = 24  # how far from an organ its distances are kept; at most 127
FAR_MM = 127
BLOCKED_MARGIN_MM = 5.0
EDGE_HU_PER_MM = 8.0  # noise of 15 HU gives gradients of about 1 at this scale
EDGE_SIGMA_MM = 1.2
EDGE_REACH_MM = 3.0
MIN_WALL_SHARE = 0.8
HOLLOW = frozenset({"gallbladder", "esophagus", "stomach", "colorectum", "bladder"})
WALLED = frozenset(
    {"gallbladder_cancer", "esophageal_cancer", "gastric_cancer", "colorectal_cancer"}
    | {"bladder_cancer"}
)

# tissues beside the ten organs; where `labels` names an organ the tissue is 0
TISSUES: Mapping[str, int] = {
    name: value
    for value, name in enumerate(
        (
            *("none", "aorta", "vena_cava", "portal_vein", "artery", "vein", "heart", "spleen"),
            *("adrenal", "trachea", "duodenum", "small_bowel", "muscle", "prostate"),
            *("spinal_cord", "brain", "thyroid", "cartilage", "air", "gas", "fat", "skin", "soft"),
        )
    )
}

# Supplementary Table 8: contrast of the templates that each lesion type is drawn into
_BOTH, _ENHANCED, _PLAIN = frozenset({True, False}), frozenset({True}), frozenset({False})
CONTRASTS: Mapping[str, frozenset[bool]] = {lesion.name: _ENHANCED for lesion in LESIONS} | {
    "lung_tumor": _PLAIN,
    "kidney_stone": _PLAIN,
    "liver_cyst": _BOTH,
    "gallstone": _BOTH,
}


class TemplateError(PastaError, ValueError):
    """A template is missing or damaged, or a case cannot become one."""


@dataclass(frozen=True, slots=True)
class OrganFacts:
    """What is known of one organ of a template.

    Attributes:
        volume_mm3: of its label, existing lesions counted as organ.
        box: tight half-open bounds along i, j, k.
        blocked: share of it that existing lesions and their margin take.
        wall_share: share of its surface with an intensity edge within 3 mm; None for solid organs.
        excluded: why no lesion may be drawn into it, such as what the impression says; or "".
    """

    volume_mm3: float
    box: Box
    blocked: float = 0.0
    wall_share: float | None = None
    excluded: str = ""


@dataclass(frozen=True, eq=False)
class Template:
    """One CT at 1 mm along L, P, S that lesions are drawn into; nobody writes to its arrays.

    Attributes:
        id: name in the store; no patient identity.
        hu: (I, J, K) int16, HU.
        labels: (I, J, K) uint8, the ten organs by the values of `pasta.labels`; lesions are organ.
        tissues: (I, J, K) uint8, values of `TISSUES` where `labels` is 0.
        blocked: (I, J, K) bool, existing lesions with 5 mm around them: nothing is drawn there.
        affine: (4, 4), voxel (i, j, k) to RAS+ mm.
        slice_mm: slice thickness of the source, which blurs along k.
        contrast: whether aorta or vena cava have 80 HU or more.
        scan_range: class of the paper (Methods 1.4).
        licence: of the CT.
        source: where the CT came from.
        organs: facts of the organs that are there.
        rendered: True if painted from a label map.
        warnings: sentences on doubtful input.
        folder: where it is stored, None in memory.
    """

    id: str
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    blocked: NDArray[np.bool_]
    affine: FloatArray
    slice_mm: float = 1.0
    contrast: bool = True
    scan_range: ScanRange = "other"
    licence: str = ""
    source: str = ""
    organs: Mapping[str, OrganFacts] = field(default_factory=dict)
    rendered: bool = False
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    axcodes: str = AXCODES
    _fields: dict[str, tuple[Box, NDArray[np.int8]]] = field(default_factory=dict, repr=False)
    _full: dict[str, NDArray[np.int8]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_arrays(
        cls,
        template_id: str,
        hu: NDArray[np.int16],
        labels: NDArray[np.uint8],
        tissues: NDArray[np.uint8] | None = None,
        **rest: Any,
    ) -> Template:
        """Build a template in memory, with the facts of its organs.

        Args:
            template_id: any name.
            hu: (I, J, K) at 1 mm along L, P, S.
            labels: (I, J, K) organs.
            tissues: (I, J, K); None lets `tissues_by_hu` tell them.
            **rest: other fields of the template; `excluded`, organ name to reason, enters the facts.
        """
        shape: Shape = (hu.shape[0], hu.shape[1], hu.shape[2])
        if tissues is None:
            tissues = tissues_by_hu(hu, labels)
        blocked = rest.pop("blocked", np.broadcast_to(np.zeros((), bool), shape))
        excluded: Mapping[str, str] = rest.pop("excluded", {})
        affine = rest.pop("affine", np.diag([-1.0, -1.0, 1.0, 1.0]))
        organs = {
            name: OrganFacts(volume, box, share, None, excluded.get(name, ""))
            for name, volume, box, share in _organs(labels, blocked)
        }
        template = cls(template_id, hu, labels, tissues, blocked, affine, organs=organs, **rest)
        for name, facts in organs.items():
            if name in HOLLOW:
                share = template.wall_share(name)
                organs[name] = OrganFacts(
                    facts.volume_mm3, facts.box, facts.blocked, share, facts.excluded
                )
        return template

    @property
    def shape(self) -> Shape:
        """Voxels along i, j, k."""
        i, j, k = self.hu.shape
        return i, j, k

    @property
    def grid(self) -> Grid:
        """Grid of all arrays."""
        return Grid(self.affine, self.shape)

    def organ_box(self, name: str, margin_mm: int = 0) -> Box:
        """Bounds of an organ, wider by a margin where the volume allows.

        Raises:
            TemplateError: if the organ is not in the template.
        """
        facts = self._facts(name)
        i, j, k = (
            slice(max(0, part.start - margin_mm), min(n, part.stop + margin_mm))
            for part, n in zip(facts.box, self.shape, strict=True)
        )
        return i, j, k

    def usable(self, name: str) -> tuple[bool, str]:
        """Tell whether lesions may be drawn into an organ, and if not why.

        More than 4000 mm3, not named by the impression, less than half of it blocked by existing
        lesions, and for hollow organs an intensity edge within 3 mm of 80 % of the wall.
        """
        facts = self.organs.get(organ_named(name).name)
        if facts is None:
            return False, f"{name} is not in the scan"
        return _usable(name, facts)

    def distances(self, name: str) -> NDArray[np.int8]:
        """Signed distance to the surface of an organ, 1 mm steps, negative inside.

        Args:
            name: of the organ.

        Returns:
            (I, J, K) int8; 127 beyond 24 mm around the bounds of the organ. Read only.

        Raises:
            TemplateError: if the organ is not in the template.
        """
        if name not in self._full:
            box, values = self.distances_in_box(name)
            full = np.full(self.shape, FAR_MM, np.int8)
            full[box] = values
            full.setflags(write=False)
            self._full[name] = full
        return self._full[name]

    def distances_in_box(self, name: str) -> tuple[Box, NDArray[np.int8]]:
        """Signed distance inside `organ_box(name, 24)`, from the cache; and that box."""
        if name not in self._fields:
            box = self.organ_box(name, REACH_MM)
            path = self.folder / f"distance_{name}.npy" if self.folder else None
            values = _stored(path)
            if values is None:
                values = signed_distance(self.labels[box] == label_named(name).value)
                _store(path, values)
            self._fields[name] = box, values
        return self._fields[name]

    def wall_share(self, name: str, box: Box | None = None) -> float:
        """Share of the surface of an organ that has an intensity edge within 3 mm.

        Args:
            name: of the organ.
            box: where to look, in voxels of the template; None takes the whole organ.

        Returns:
            0 to 1; 0 where there is no surface in the box.
        """
        box = box or self.organ_box(name)
        wide = _wider(box, round(EDGE_REACH_MM + 3 * EDGE_SIGMA_MM), self.shape)
        organ = self.labels[wide] == label_named(name).value
        surface = organ & ~ndimage.binary_erosion(organ, border_value=1)
        inner = tuple(
            slice(part.start - outer.start, part.stop - outer.start)
            for part, outer in zip(box, wide, strict=True)
        )
        keep = np.zeros(organ.shape, bool)
        keep[inner] = True
        surface &= keep
        if not surface.any():
            return 0.0
        hu = np.clip(self.hu[wide], -250, 350).astype(np.float32)
        edge = ndimage.gaussian_gradient_magnitude(hu, EDGE_SIGMA_MM) > EDGE_HU_PER_MM
        if not edge.any():
            return 0.0
        near = ndimage.distance_transform_edt(~edge) <= EDGE_REACH_MM
        return float(np.mean(near[surface]))

    def _facts(self, name: str) -> OrganFacts:
        try:
            return self.organs[name]
        except KeyError:
            there = ", ".join(self.organs) or "none"
            msg = f"template {self.id}: no {name} in it (organs: {there}). Choose another template."
            raise TemplateError(msg) from None


class TemplateStore:
    """A folder of templates.

    Args:
        folder: of the store; need not exist before something is put in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __reduce__(self) -> tuple[type[TemplateStore], tuple[Path]]:
        """Travel to other processes as a path."""
        return TemplateStore, (self.folder,)

    def ids(self) -> list[str]:
        """Names of the templates that are complete, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("*/template.json"))

    def ids_for(self, lesion_type: str) -> list[str]:
        """Templates that a lesion type may be drawn into: organ usable, contrast of Suppl. Table 8.

        Raises:
            LabelError: if the lesion type is unknown.
            TemplateError: if a template is damaged.
        """
        lesion = label_named(lesion_type)
        found = []
        for template_id in self.ids():
            document = self.document(template_id)
            facts = _organs_of(document).get(lesion.organ)
            if facts is None or document["contrast"] not in CONTRASTS[lesion.name]:
                continue
            if _usable(lesion.organ, facts, gate=lesion.name in WALLED)[0]:
                found.append(template_id)
        return found

    def document(self, template_id: str) -> dict[str, Any]:
        """Read what is known of a template, without its voxels.

        Raises:
            TemplateError: if there is no such template or its description is damaged.
        """
        return _document(self.folder, template_id)

    def load(self, template_id: str) -> Template:
        """Open a template; its arrays are memory-mapped and read only.

        Raises:
            TemplateError: if it is not there or damaged.
        """
        document = self.document(template_id)
        folder = self.folder / template_id
        try:
            hu, labels, tissues = (
                np.load(folder / f"{name}.npy", mmap_mode="r")
                for name in ("hu", "labels", "tissues")
            )
            blocked = (
                np.load(folder / "blocked.npy", mmap_mode="r")
                if (folder / "blocked.npy").exists()
                else np.broadcast_to(np.zeros((), bool), hu.shape)
            )
        except (OSError, ValueError) as error:
            msg = (
                f"template {template_id}: its arrays are damaged or missing. Import the case again."
            )
            raise TemplateError(msg) from error
        if len({hu.shape, labels.shape, tissues.shape, blocked.shape}) != 1 or hu.ndim != 3:
            msg = f"template {template_id}: its arrays differ in shape. Import the case again."
            raise TemplateError(msg)
        return Template(
            template_id,
            hu,
            labels,
            tissues,
            blocked,
            np.array(document["affine"], dtype=np.float64),
            slice_mm=float(document["slice_mm"]),
            contrast=bool(document["contrast"]),
            scan_range=document["scan_range"],
            licence=document["licence"],
            source=document["source"],
            organs=_organs_of(document),
            rendered=document["rendered"],
            warnings=tuple(document["warnings"]),
            folder=folder,
        )

    def structures(self, template_id: str) -> NDArray[np.uint8]:
        """TotalSegmentator v1 values (0-104) of a template, for `total.nii.gz`.

        Raises:
            TemplateError: if they are not stored.
        """
        try:
            with np.load(self.folder / template_id / "total.npz") as stored:
                total: NDArray[np.uint8] = stored["total"]
                return total
        except (OSError, ValueError, KeyError) as error:
            msg = f"template {template_id}: total.npz is damaged or missing. Import the case again."
            raise TemplateError(msg) from error

    def put(
        self,
        template: Template,
        total: NDArray[np.uint8],
        *,
        overwrite: bool = False,
    ) -> str:
        """Add a template; it is there as a whole or not at all.

        Args:
            template: to store.
            total: (I, J, K) TotalSegmentator v1 values.
            overwrite: replace one of the same name.

        Returns:
            Its name.

        Raises:
            TemplateError: if there is one of that name.
            OutputError: if it cannot be written.
        """
        target = self.folder / template.id
        if (target / "template.json").exists():
            if not overwrite:
                msg = f"template {template.id}: is in the store already. Say --overwrite to replace it."
                raise TemplateError(msg)
            (target / "template.json").unlink()  # first: from here on it is incomplete
        try:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True, exist_ok=True)
            for name in ("hu", "labels", "tissues"):
                _save(target / f"{name}.npy", np.ascontiguousarray(getattr(template, name)))
            if template.blocked.any():
                _save(target / "blocked.npy", np.ascontiguousarray(template.blocked))
            with atomic_file(target / "total.npz") as file:
                np.savez_compressed(file, total=total)
            with atomic_file(target / "template.json") as file:
                file.write(json.dumps(_written(template), indent=1).encode())
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            msg = (
                f"{target}: the template cannot be written ({error}). Free space and import again."
            )
            raise OutputError(msg) from error
        _document.cache_clear()
        return template.id

    def __iter__(self) -> Iterator[Template]:
        """Open one template after the other."""
        return (self.load(template_id) for template_id in self.ids())


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Distance of voxel centres to the surface of a mask, whole mm, negative inside.

    The surface lies half a voxel from the outermost voxels: these have -1 inside and 1 outside.
    """
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    distance = np.where(mask, -np.ceil(inside - 0.5), np.ceil(outside - 0.5))
    whole: NDArray[np.int8] = np.clip(distance, -FAR_MM, FAR_MM).astype(np.int8)
    return whole


def tissues_by_hu(
    hu: NDArray[np.int16],
    labels: NDArray[np.uint8],
    known: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Tell air, gas, fat, skin and other soft tissue apart where nothing better is known.

    Args:
        hu: (I, J, K) at 1 mm.
        labels: organs; their voxels stay 0.
        known: tissues that a label map names; they stay.
    """
    tissues = np.zeros(hu.shape, np.uint8) if known is None else known.copy()
    free = (labels == 0) & (tissues == 0)
    body = body_mask(hu)
    gas = hu < -400
    tissues[free & ~body] = TISSUES["air"]
    tissues[free & body & gas] = TISSUES["gas"]
    tissues[free & body & ~gas & (hu < -30)] = TISSUES["fat"]
    tissues[free & body & (hu >= -30)] = TISSUES["soft"]
    # 3 voxels from the surface of the body, slice by slice: the ends of the scan are no skin
    plane = np.zeros((3, 3, 3), bool)
    plane[:, :, 1] = ndimage.generate_binary_structure(2, 1)
    rim = body & ~ndimage.binary_erosion(body, plane, iterations=3, border_value=1)
    tissues[free & rim & (hu > -90)] = TISSUES["skin"]
    return tissues


def body_mask(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Find the body: the largest solid part of every slice together, gas inside counted in.

    Works on every second voxel; the border is exact to 1 mm.
    """
    solid = ndimage.binary_opening(hu[::2, ::2, ::2] > -300, iterations=1)
    parts, count = ndimage.label(solid)
    if count == 0:
        return np.zeros(hu.shape, bool)
    solid = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    for k in range(solid.shape[2]):
        solid[:, :, k] = ndimage.binary_fill_holes(solid[:, :, k])
    body = solid.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    i, j, k = hu.shape
    return np.asarray(body[:i, :j, :k])


def _organs(
    labels: NDArray[np.uint8], blocked: NDArray[np.bool_]
) -> Iterator[tuple[str, float, Box, float]]:
    counts = np.bincount(labels.ravel(), minlength=len(ORGANS) + 1)
    any_blocked = bool(blocked.any())
    for organ, box in zip(ORGANS, ndimage.find_objects(labels, max_label=len(ORGANS)), strict=True):
        if box is not None:
            share = 0.0
            if any_blocked:
                share = float(blocked[box][labels[box] == organ.value].mean())
            yield organ.name, float(counts[organ.value]), box, share


def _usable(name: str, facts: OrganFacts, *, gate: bool = True) -> tuple[bool, str]:
    if facts.excluded:
        return False, facts.excluded
    if facts.volume_mm3 <= MIN_ORGAN_MM3:
        return False, f"{name} has {facts.volume_mm3:.0f} mm3, more than {MIN_ORGAN_MM3:.0f} needed"
    if facts.blocked > 0.5:
        return False, f"existing lesions take {facts.blocked:.0%} of {name}"
    if gate and facts.wall_share is not None and facts.wall_share < MIN_WALL_SHARE:
        reason = f"the mask of {name} follows an edge over {facts.wall_share:.0%} of its wall only"
        return False, f"{reason}, {MIN_WALL_SHARE:.0%} needed"
    return True, ""


def _wider(box: Box, margin: int, shape: Shape) -> Box:
    i, j, k = (
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(box, shape, strict=True)
    )
    return i, j, k


def _written(template: Template) -> dict[str, Any]:
    content = hashlib.sha256()
    for array in (template.hu, template.labels, template.tissues, template.blocked):
        content.update(np.ascontiguousarray(array).data)
    return {
        "format": 1,
        "shape": list(template.shape),
        "affine": template.affine.tolist(),
        "slice_mm": round(template.slice_mm, 3),
        "contrast": template.contrast,
        "scan_range": template.scan_range,
        "licence": template.licence,
        "source": template.source,
        "rendered": template.rendered,
        "warnings": list(template.warnings),
        "sha256": content.hexdigest(),
        "organs": {
            name: {
                "volume_mm3": facts.volume_mm3,
                "box": [[part.start, part.stop] for part in facts.box],
                "blocked": round(facts.blocked, 4),
                "wall_share": None if facts.wall_share is None else round(facts.wall_share, 4),
                "excluded": facts.excluded,
            }
            for name, facts in template.organs.items()
        },
    }


@functools.lru_cache(maxsize=4096)
def _document(folder: Path, template_id: str) -> dict[str, Any]:
    path = folder / template_id / "template.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"template {template_id}: not in the store. Import the case, or name another store."
        raise TemplateError(msg) from None
    except (OSError, ValueError) as error:
        msg = f"template {template_id}: template.json is damaged. Import the case again."
        raise TemplateError(msg) from error
    if document.get("format") != 1:
        msg = f"template {template_id}: written by another version. Import the case again."
        raise TemplateError(msg)
    return document


def _organs_of(document: dict[str, Any]) -> dict[str, OrganFacts]:
    organs = {}
    for name, facts in document["organs"].items():
        i, j, k = (slice(start, stop) for start, stop in facts["box"])
        organs[name] = OrganFacts(
            facts["volume_mm3"],
            (i, j, k),
            facts["blocked"],
            facts["wall_share"],
            facts["excluded"],
        )
    return organs


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)


def _stored(path: Path | None) -> NDArray[np.int8] | None:
    if path is None or not path.exists():
        return None
    try:
        values: NDArray[np.int8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return values


def _store(path: Path | None, values: NDArray[np.int8]) -> None:
    if path is None:
        return
    try:
        _save(path, values)
    except OutputError:
        return  # a read-only store or a full disk costs time, not the result
