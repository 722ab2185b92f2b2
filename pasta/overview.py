"""One picture of a result: three views with the mask, tumour probabilities, the report beside."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.errors import LabelError
from pasta.geometry import Volume, reoriented
from pasta.io.files import atomic_file
from pasta.labels import LABELS, Label, label_of
from pasta.report import from_document, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

SIZE_INCHES, DOTS_PER_INCH = (16.0, 10.4), 100
INK, PAPER, FAINT = "#e8e8e8", "#101418", "#8b949e"
# centre and width in HU
WINDOWS_HU = {"soft tissue": (50.0, 400.0), "lung": (-500.0, 1500.0), "bone": (400.0, 1800.0)}
MARK = "AI output, research use only"
REPORT_LINES, REPORT_COLUMNS = 24, 104


@dataclass(frozen=True, slots=True)
class _View:
    title: str
    across: int  # axis of the LPS array shown from left to right
    down: int
    through: int
    marks: tuple[str, str, str, str]  # left, right, top, bottom


# as radiologists look: from the feet, from the front, from the left
_VIEWS = (
    _View("Axial", 0, 1, 2, ("R", "L", "A", "P")),
    _View("Coronal", 0, 2, 1, ("R", "L", "S", "I")),
    _View("Sagittal", 1, 2, 0, ("A", "P", "S", "I")),
)


def write_overview(
    volume: Volume,
    labelmap: Volume,
    screening: Mapping[str, Any] | None,
    report: Mapping[str, Any] | None,
    path: Path,
) -> None:
    """Draw the overview of one case as PNG; nothing in it identifies the patient.

    The views go through the largest lesion, else through the largest organ, else through the middle.
    The patient's right is on the left of the picture. Voxels keep their proportions in mm.

    Args:
        volume: CT in HU, any orientation and spacing.
        labelmap: label values of Supplementary Table 9 on the grid of `volume`.
        screening: document of the screening task, None leaves its panel out.
        report: document of the report task, None leaves its panel out.
        path: written atomically.

    Raises:
        LabelError: if the labelmap does not lie on the grid of the volume.
        OutputError: if the file cannot be written.
    """
    if not labelmap.grid.matches(volume.grid):
        msg = (
            f"labelmap: grid of {labelmap.grid.shape} voxels is not that of the CT, "
            f"{volume.grid.shape}; bring it to the CT's own grid first."
        )
        raise LabelError(msg)
    ct, labels = reoriented(volume, "LPS"), reoriented(labelmap, "LPS")
    counts = np.bincount(labels.voxels.ravel(order="K"), minlength=len(LABELS) + 1)
    place, target = _focus(labels.voxels, counts)
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 6, height_ratios=(1.55, 1), left=0.02, right=0.985, top=0.925, bottom=0.055,
        hspace=0.10, wspace=0.25,
    )  # fmt: skip
    for number, view in enumerate(_VIEWS):
        axes = figure.add_subplot(grid[0, 2 * number : 2 * number + 2])
        _draw_view(axes, view, ct, labels.voxels, place, _window(target))
    _draw_legend(figure.add_subplot(grid[1, 0]), counts * volume.grid.voxel_volume_mm3 / 1000)
    _draw_probabilities(figure.add_subplot(grid[1, 1:3]), screening)
    _draw_report(figure.add_subplot(grid[1, 3:]), report)
    shape = " x ".join(str(n) for n in volume.grid.shape)
    spacing = " x ".join(f"{s:.3g}" for s in volume.grid.spacing_mm)
    through = f"through the largest {target.title.lower()}" if target else "no label found"
    figure.text(0.02, 0.962, "PASTA-AID", color=INK, fontsize=17, fontweight="bold")
    figure.text(
        0.125, 0.963, f"{shape} voxels of {spacing} mm  -  {through}", color=FAINT, fontsize=11
    )
    figure.text(
        0.985, 0.963, MARK, color="#ffb454", fontsize=13, fontweight="bold", ha="right"
    )  # fmt: skip
    figure.text(0.02, 0.018, RESEARCH_USE_ONLY, color=FAINT, fontsize=9)
    figure.text(0.985, 0.018, f"pasta-aid {__version__}", color=FAINT, fontsize=9, ha="right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", facecolor=PAPER)


def _focus(labels: NDArray[Any], counts: NDArray[Any]) -> tuple[tuple[int, int, int], Label | None]:
    """Choose the voxel that all views go through, and what lies there."""
    lesions = [label for label in LABELS if label.kind == "lesion" and counts[label.value]]
    organs = [label for label in LABELS if label.kind == "organ" and counts[label.value]]
    best: tuple[int, Label, NDArray[np.bool_], tuple[slice, ...]] | None = None
    boxes = ndimage.find_objects(labels, max_label=len(LABELS))
    for label in lesions or sorted(organs, key=lambda organ: -counts[organ.value])[:1]:
        around = boxes[label.value - 1]
        parts, _ = ndimage.label(labels[around] == label.value)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        part = int(sizes.argmax())
        if best is None or sizes[part] > best[0]:
            best = int(sizes[part]), label, parts == part, around
    if best is None:
        i, j, k = labels.shape
        return (i // 2, j // 2, k // 2), None
    _, label, mask, box = best
    voxels = np.argwhere(mask)
    # the voxel of the mask nearest to its centre: the centre of a ring lies outside of it
    nearest = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    i, j, k = (int(n) + bound.start for n, bound in zip(nearest, box, strict=True))
    return (i, j, k), label


def _window(target: Label | None) -> str:
    if target and target.name in {"lung", "lung_tumor"}:
        return "lung"
    if target and target.name in {"bone", "bone_metastasis"}:
        return "bone"
    return "soft tissue"


def _draw_view(
    axes: Axes,
    view: _View,
    ct: Volume,
    labels: NDArray[Any],
    place: tuple[int, int, int],
    window: str,
) -> None:
    cut: list[int | slice] = [slice(None)] * 3
    cut[view.through] = place[view.through]
    image, mask = ct.voxels[tuple(cut)].T, labels[tuple(cut)].T  # rows are `down`
    spacing = ct.grid.spacing_mm
    width, height = image.shape[1] * spacing[view.across], image.shape[0] * spacing[view.down]
    head_up = view.marks[2] == "S"  # the array counts up to the head, pictures count down
    extent = (0, width, 0, height) if head_up else (0, width, height, 0)
    center, breadth = WINDOWS_HU[window]
    axes.imshow(
        image,
        cmap="gray",
        vmin=center - breadth / 2,
        vmax=center + breadth / 2,
        extent=extent,
        origin="lower" if head_up else "upper",
        interpolation="bilinear",
        aspect="equal",
    )
    x = (np.arange(image.shape[1]) + 0.5) * spacing[view.across]
    y = (np.arange(image.shape[0]) + 0.5) * spacing[view.down]
    for value in np.unique(mask[mask > 0]):  # lesions have the higher values: drawn on top
        label = label_of(int(value))
        color = tuple(channel / 255 for channel in label.color)
        inside = np.pad((mask == value).astype(np.float32), 1)  # closed outlines at the border
        padded = [np.concatenate([[a[0] - d], a, [a[-1] + d]]) for a, d in (
            (x, spacing[view.across]), (y, spacing[view.down]))]  # fmt: skip
        lesion = label.kind == "lesion"
        axes.contourf(
            *padded, inside, levels=[0.5, 1], colors=[color], alpha=0.4 if lesion else 0.14
        )
        axes.contour(
            *padded, inside, levels=[0.5], colors=[color], linewidths=1.6 if lesion else 0.8
        )
    across = (place[view.across] + 0.5) * spacing[view.across]
    down = (place[view.down] + 0.5) * spacing[view.down]
    axes.axvline(across, color=INK, linewidth=0.5, alpha=0.35, linestyle=(0, (6, 6)))
    axes.axhline(down, color=INK, linewidth=0.5, alpha=0.35, linestyle=(0, (6, 6)))
    axes.set_xlim(0, width)
    axes.set_ylim((0, height) if head_up else (height, 0))
    corners = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
               (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))  # fmt: skip
    for mark, (left, low, horizontal, vertical) in zip(view.marks, corners, strict=True):
        axes.text(
            left, low, mark, transform=axes.transAxes, ha=horizontal, va=vertical,
            color="#ffd866", fontsize=13, fontweight="bold",
        )  # fmt: skip
    axes.set_title(
        f"{view.title} {place[view.through] + 1}/{labels.shape[view.through]}, {window} window",
        color=FAINT,
        fontsize=10,
        pad=4,
    )
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])


def _panel(axes: Axes, title: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold", pad=6)


def _draw_legend(axes: Axes, volumes_ml: NDArray[np.float64]) -> None:
    _panel(axes, "Labels")
    shown = [label for label in reversed(LABELS) if volumes_ml[label.value]]
    axes.set_xlim(0, 1)
    axes.set_ylim(26, 0)
    for row, label in enumerate(shown):
        color = tuple(channel / 255 for channel in label.color)
        millilitres = volumes_ml[label.value]
        amount = f"{millilitres:.1f}" if millilitres < 10 else f"{millilitres:,.0f}"
        bold = "bold" if label.kind == "lesion" else "normal"
        axes.text(0.0, row + 0.7, "\u25a0", color=color, fontsize=9, va="center")
        axes.text(0.075, row + 0.7, label.title, color=INK, fontsize=8, va="center", weight=bold)
        axes.text(1.08, row + 0.7, f"{amount} ml", color=FAINT, fontsize=8, va="center", ha="right")
    if not shown:
        axes.text(0, 1, "none", color=FAINT, fontsize=9, va="center")


def _draw_probabilities(axes: Axes, screening: Mapping[str, Any] | None) -> None:
    _panel(axes, "Tumour probability (bar: mean of the folds, dots: each fold)")
    organs: Sequence[Mapping[str, Any]] = screening["organs"] if screening else []
    if not organs:
        axes.text(0.03, 0.95, "not screened", color=FAINT, fontsize=9, transform=axes.transAxes)
        return
    rows = max(len(organs), 5)
    axes.set_xlim(-0.30, 1.06)
    axes.set_ylim(rows + 0.1, -0.1)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        axes.axvline(tick, color=FAINT, linewidth=0.5, alpha=0.35)
        axes.text(tick, rows + 0.08, f"{tick:g}", color=FAINT, fontsize=8, ha="center", va="top")
    for row, organ in enumerate(organs):
        y = row + 0.5
        axes.text(-0.03, y, organ["title"], color=INK, fontsize=9, ha="right", va="center")
        probability = organ["probability"]
        if probability is None:
            lines = textwrap.wrap(str(organ["sentence"]), 56)[:2]
            axes.text(0.01, y, "\n".join(lines), color=FAINT, fontsize=7.5, va="center")
            continue
        color = "#ff6b5a" if probability >= 0.5 else "#5aa9e6"
        axes.barh(y, probability, height=0.42, color=color, alpha=0.85)
        spread = organ.get("spread")
        if spread:
            axes.plot([spread["min"], spread["max"]], [y, y], color=INK, linewidth=1.2)
            axes.plot(organ["folds"], [y] * len(organ["folds"]), ".", color=INK, markersize=5)
        axes.text(
            0.01, y + 0.36, f"{probability:.2f}", color=INK, fontsize=8, va="center"
        )  # fmt: skip


def _draw_report(axes: Axes, report: Mapping[str, Any] | None) -> None:
    _panel(axes, "Report")
    if not report:
        axes.text(0.0, 0.95, "not written", color=FAINT, fontsize=9, transform=axes.transAxes)
        return
    axes.text(
        0.0, 0.985, "\n".join(report_lines(report)), color=INK, fontsize=7.6, va="top",
        linespacing=1.25, transform=axes.transAxes, family="DejaVu Sans",
    )  # fmt: skip


def report_lines(
    report: Mapping[str, Any], lines: int = REPORT_LINES, columns: int = REPORT_COLUMNS
) -> list[str]:
    """Fit a report into a panel: enhancement, then one line a lesion, the largest first.

    Args:
        report: document of the report task.
        lines: that fit.
        columns: that fit.

    Returns:
        Wrapped lines; the last says how many lesions are left out, if any.
    """
    content = from_document(report["report"])
    enhancement = content.enhancement
    stated = enhancement.value or "enhancement status unknown"
    wrapped = textwrap.wrap(f"{stated} ({enhancement.source}).", columns)
    if not content.lesions:
        wrapped.append("No lesion is marked in this scan. This does not exclude one.")
    ordered = sorted(content.lesions, key=lambda lesion: -lesion.volume_ml)
    for number, lesion in enumerate(ordered):
        text = one_line(lesion).split(" [AI output")[0]  # the picture itself is marked
        entry = ["", *textwrap.wrap(text, columns, subsequent_indent="    ")]
        if len(wrapped) + len(entry) > lines - 2:
            left = len(ordered) - number
            wrapped += ["", f"... and {left} smaller: see the report's text."]
            break
        wrapped += entry
    return wrapped
