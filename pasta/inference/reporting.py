"""The structured report: every lesion of a labelmap by the eight attributes.

Five attributes come from a network, location and size from the mask, enhancement from a DICOM tag or
else from HU. Beside each predicted attribute stands what the meter reads from the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.errors import CheckpointError, LabelError, ReportError
from pasta.inference.device import chosen_device, fast_precision
from pasta.inference.progress import Progress, silent
from pasta.labels import LABELS, LESIONS, ORGANS, label_of, organ_named
from pasta.meter import Measurements, measured
from pasta.neighbourhood import Scan, Slices
from pasta.preprocessing.patches import Patches
from pasta.report import (
    LOCATIONS,
    PREDICTED,
    CaseFacts,
    Finding,
    LesionReport,
    Measurement,
    Report,
    attribute_named,
    option_of,
)
from pasta.report.attributes import ENHANCED, NON_CONTRAST
from pasta.report.findings import Box
from pasta.report.prose import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pasta.geometry import Volume
    from pasta.labels import Label
    from pasta.networks.checkpoint import Model

MIN_VOXELS = 3
MIN_MM3 = 10.0
HOME_SHARE = 0.05  # of the 10 mm around a lesion; below, its organ is not really there
NO_WEIGHTS = "no attribute weights"


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One connected lesion.

    Attributes:
        label: of the lesion.
        box: its tight bounds along the axes of `Scan.labels`.
        mask: the lesion in that box.
    """

    label: Label
    box: Slices
    mask: NDArray[np.bool_]


def describe(
    volume: Volume,
    labelmap: Volume,
    model: Model | None,
    *,
    device: torch.device | str = "auto",
    progress: Progress | None = None,
) -> Report:
    """Write the report of one CT.

    Args:
        volume: CT in HU, any orientation and spacing.
        labelmap: on the same grid; lesions are values 11-25, organs 1-10 where they are known.
        model: of task "attributes"; None leaves the five attributes to the meter.
        device: for the network.
        progress: called before every lesion and at the end.

    Returns:
        The lesions by label value, largest first.

    Raises:
        LabelError: if the labelmap is not on the grid of the CT or holds other values.
        CheckpointError: if the weights are not of an attribute network, or do not fit.
        CancelledError: if `progress` raises it.
    """
    progress = progress or silent
    _check(volume, labelmap)
    progress(0.0, "report")
    network = None if model is None else AttributeNetwork(model, volume, chosen_device(str(device)))
    scan = Scan(volume, labelmap)
    components, specks = lesion_components(scan)
    enhancement = _enhancement(scan)
    lesions = []
    for index, component in enumerate(components):
        progress(index / len(components), "report")
        lesions.append(_lesion(index + 1, component, scan, network, enhancement))
    progress(1.0, "report")
    warnings = []
    if specks:
        warnings.append(
            f"{specks} marked specks below {MIN_VOXELS} voxels or {MIN_MM3:.0f} mm3 are left out."
        )
    if model is None and lesions:
        warnings.append(f"There are {NO_WEIGHTS}: shape to invasion are measured only.")
    return Report(_facts(scan, specks), enhancement, tuple(lesions), tuple(warnings))


def lesion_components(scan: Scan) -> tuple[list[Component], int]:
    """Separate the lesions of a labelmap (26 neighbours) and count the specks left out."""
    components: list[Component] = []
    specks = 0
    least = max(MIN_VOXELS, MIN_MM3 / scan.grid.voxel_volume_mm3)
    whole = ndimage.find_objects(scan.labels, max_label=LABELS[-1].value)
    for label in LESIONS:
        zone = whole[label.value - 1]
        if zone is None:
            continue
        parts, _ = ndimage.label(scan.labels[zone] == label.value, structure=np.ones((3, 3, 3)))
        own: list[Component] = []
        for number, part in enumerate(ndimage.find_objects(parts), start=1):
            mask = parts[part] == number
            if mask.sum() < least:
                specks += 1
                continue
            i, j, k = (
                slice(outer.start + inner.start, outer.start + inner.stop)
                for outer, inner in zip(zone, part, strict=True)
            )
            own.append(Component(label, (i, j, k), mask))
        components += sorted(own, key=lambda component: -int(component.mask.sum()))
    return components, specks


class AttributeNetwork:
    """The networks of an attribute model, on one CT.

    Args:
        model: of task "attributes"; several folds are averaged.
        volume: CT in HU.
        device: where to run.

    Raises:
        CheckpointError: if the model is of another task, an attribute or option is unknown, or the
            weights do not fit.
    """

    def __init__(self, model: Model, volume: Volume, device: torch.device) -> None:
        spec = model.spec
        if spec.task != "attributes":
            msg = f"model {spec.name} is for {spec.task}; the report needs one for attributes."
            raise CheckpointError(msg)
        self.options: list[tuple[str, tuple[str, ...]]] = []
        try:
            for key, options in spec.attributes.items():
                name = attribute_named(key).name
                named = tuple(option_of(name, option) if option else "" for option in options)
                self.options.append((name, named))
        except ReportError as error:
            msg = f"model {spec.name}: attributes: {error}"
            raise CheckpointError(msg) from error
        self.model = model
        self.device = device
        self.patches = Patches(volume, spec)
        self._networks = model.networks(device)

    def probabilities(self, centre_mm: Sequence[float]) -> dict[str, dict[str, float]]:
        """Predict the attributes of the lesion at a point: mean over folds, by option."""
        x = self.patches.around(centre_mm).to(self.device)[None, None]
        total: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), fast_precision(self.device):
            outputs = [network(x)[0].float().cpu() for network in self._networks]
        for logits in outputs:
            if not bool(torch.isfinite(logits).all()):
                msg = f"model {self.model.spec.name}: its output is not finite; import it again."
                raise CheckpointError(msg)
            start = 0
            for name, options in self.options:
                group = logits[start : start + len(options)].clone()
                start += len(options)
                group[[not option for option in options]] = -torch.inf  # trained on nothing
                total[name] = total.get(name, torch.zeros(())) + group.softmax(0)
        return {
            name: {
                option: round(float(p) / len(outputs), 6)
                for option, p in zip(options, total[name], strict=True)
                if option
            }
            for name, options in self.options
        }


def _check(volume: Volume, labelmap: Volume) -> None:
    if not labelmap.grid.matches(volume.grid):
        msg = "the labelmap is not on the grid of the CT; resample it to the CT first."
        raise LabelError(msg)
    if labelmap.voxels.dtype.kind not in "iu":
        msg = f"the labelmap holds {labelmap.voxels.dtype} voxels, expected integers."
        raise LabelError(msg)
    low, high = int(labelmap.voxels.min()), int(labelmap.voxels.max())
    if low < 0 or high > LABELS[-1].value:
        label_of(low if low < 0 else high)  # raises, naming the value


def _enhancement(scan: Scan) -> Finding:
    by_hu = scan.enhancement
    acquisition = scan.volume.acquisition
    if acquisition.contrast is not None:
        value = ENHANCED if acquisition.contrast else NON_CONTRAST
        return Finding(value, f"DICOM {acquisition.contrast_source}".strip(), measured=by_hu)
    if by_hu.value is None:
        return Finding(None, "none", measured=by_hu, note="no DICOM tag, and HU do not tell")
    return Finding(by_hu.value, "measured", measured=by_hu, note="no DICOM tag says so")


def _facts(scan: Scan, specks: int) -> CaseFacts:
    grid = scan.volume.grid
    counts = np.bincount(scan.labels.ravel(), minlength=len(LABELS) + 1)
    volumes = {
        organ.name: round(float(counts[organ.value]) * grid.voxel_volume_mm3 / 1000, 3)
        for organ in ORGANS
        if counts[organ.value]
    }
    i, j, k = (round(step, 5) for step in grid.spacing_mm)
    return CaseFacts(grid.shape, (i, j, k), grid.axcodes, volumes, specks)


def _lesion(
    number: int,
    component: Component,
    scan: Scan,
    network: AttributeNetwork | None,
    enhancement: Finding,
) -> LesionReport:
    label, box = component.label, component.box
    meter = measured(scan, label, box, component.mask)
    middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
    warnings = []
    probabilities: Mapping[str, Mapping[str, float]] = {}
    if network is not None:
        affine = scan.grid.affine
        probabilities = network.probabilities(affine[:3, :3] @ middle + affine[:3, 3])
        patch = max(network.patches.extent_mm)
        if any(size > patch for size in meter.size_mm):
            warnings.append(
                f"The lesion is larger than the {patch:.0f} mm patch that the network sees; "
                "its attributes are those of the middle."
            )
    cut_off = any(
        part.start == 0 or part.stop == n for part, n in zip(box, scan.labels.shape, strict=True)
    )
    if cut_off:
        warnings.append("The lesion is cut off by the field of view; its size is a lower limit.")
    findings = {
        "enhancement": enhancement,
        "location": _location(component, scan, meter),
        "size": Finding(size_text(meter.size_mm), "mask"),
        **{
            name: _predicted(name, probabilities.get(name), meter, network is not None)
            for name in PREDICTED
        },
    }
    centre = np.argwhere(component.mask).mean(axis=0) + [part.start for part in box]
    centre_mm = scan.grid.affine[:3, :3] @ centre + scan.grid.affine[:3, 3]
    native_box, centre_voxel = _native(scan, box, centre_mm)
    return LesionReport(
        number=number,
        label=label.name,
        findings=findings,
        size_mm=_rounded(meter.size_mm, 2),
        volume_ml=round(meter.volume_ml, 4),
        centre_mm=_rounded(centre_mm, 2),
        centre_voxel=_rounded(centre_voxel, 2),
        box=native_box,
        voxels=int(component.mask.sum()),
        organ_overlap=meter.organ_overlap,
        cut_off=cut_off,
        warnings=tuple(warnings),
    )


def _predicted(
    name: str, probabilities: Mapping[str, float] | None, meter: Measurements, network: bool
) -> Finding:
    by_image = meter.attributes[name]
    if probabilities is None:
        note = "not predicted by this model" if network else NO_WEIGHTS
        return Finding(None, "none", measured=by_image, note=note)
    value = max(probabilities, key=lambda option: probabilities[option])
    return Finding(value, "network", dict(probabilities), by_image)


def _location(component: Component, scan: Scan, meter: Measurements) -> Finding:
    """Tell where the lesion lies: its own organ if that is around it, else the nearest one."""
    home = component.label.organ
    overlap = meter.organ_overlap
    around = Measurement(LOCATIONS[home], overlap)
    if overlap.get(home, 0.0) >= HOME_SHARE:
        return Finding(LOCATIONS[home], "mask", measured=around)
    if not (scan.labels == organ_named(home).value).any():
        note = f"the mask holds no {home}; the location is that of the label"
        return Finding(LOCATIONS[home], "label", note=note)
    nearest = max(overlap, key=lambda name: overlap[name]) if overlap else _nearest(component, scan)
    around = Measurement(LOCATIONS[nearest], overlap)
    if nearest == home:
        return Finding(LOCATIONS[home], "mask", measured=around)
    note = f"the label says {home}, but the nearest organ is the {nearest}"
    return Finding(LOCATIONS[nearest], "mask", measured=around, note=note)


def _nearest(component: Component, scan: Scan) -> str:
    """Find the organ nearest to a lesion that none touches, on every few voxels of the scan."""
    spacing = np.array(scan.grid.spacing_mm)
    stride = [max(1, int(4 / step)) for step in spacing]
    coarse = scan.labels[:: stride[0], :: stride[1], :: stride[2]]
    places = np.argwhere((coarse > 0) & (coarse <= len(ORGANS)))
    if not len(places):
        return component.label.organ
    centre = np.array([(part.start + part.stop - 1) / 2 for part in component.box])
    distance = np.linalg.norm((places * stride - centre) * spacing, axis=1)
    return label_of(int(coarse[tuple(places[distance.argmin()])])).name


def _native(
    scan: Scan, box: Slices, centre_mm: NDArray[np.float64]
) -> tuple[Box, NDArray[np.float64]]:
    """Bring a box and a point to the voxels of the CT as read."""
    inverse = np.linalg.inv(scan.volume.affine)
    ends = np.array([[part.start, part.stop - 1] for part in box], dtype=float).T
    between = inverse @ scan.grid.affine
    turned = np.round(ends @ between[:3, :3].T + between[:3, 3]).astype(int)
    low, high = turned.min(axis=0), turned.max(axis=0) + 1
    i, j, k = ((int(a), int(b)) for a, b in zip(low, high, strict=True))
    return (i, j, k), inverse[:3, :3] @ centre_mm + inverse[:3, 3]


def _rounded(
    values: Sequence[float] | NDArray[np.float64], digits: int
) -> tuple[float, float, float]:
    i, j, k = (round(float(value), digits) for value in values)
    return i, j, k
