"""Measure and compare predictions: `python -m training.measure pairs.csv --out DIR`.

The table has the columns case, patient, model, prediction, reference: labelmaps with the 25 label values,
each prediction on the grid of its reference. Optional: labels, the names that the reference is complete
in, with ";" between them (default: all that the reference holds).

Rules for what is empty, per case and label. Reference and prediction both empty: no value for Dice,
surface Dice and HD95. One of them empty: Dice and surface Dice 0, HD95 no value. False positives are
counted either way. Organs are measured with their lesions. Means are over the cases that have a value.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from pasta.errors import PastaError
from pasta.evaluation.comparison import bootstrap, wilcoxon_better
from pasta.evaluation.detection import lesions_found
from pasta.evaluation.overlap import dice
from pasta.evaluation.surface import hausdorff95, surface_dice
from pasta.io.files import atomic_file
from pasta.io.labelmaps import read_labelmap
from pasta.labels import LABELS, lesions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pasta.geometry import Volume

log = logging.getLogger(__name__)
SCHEMA = "pasta-measurement/1"
COLUMNS = ("case", "patient", "model", "prediction", "reference")
METRICS = ("dice", "surface_dice", "hd95_mm", "volume_difference_ml", "sensitivity")
TOLERANCE_MM = 2.0


class MeasureError(PastaError, ValueError):
    """A table of predictions cannot be measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    case: str
    patient: str
    model: str
    prediction: Path
    reference: Path
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What was measured of one label in one prediction; NaN where there is no value."""

    case: str
    patient: str
    model: str
    label: str
    dice: float
    surface_dice: float
    hd95_mm: float
    volume_difference_ml: float
    lesions_found: int
    lesions: int
    false_positives: int

    @property
    def sensitivity(self) -> float:
        """Share of the case's lesions that were found; NaN without lesions."""
        return self.lesions_found / self.lesions if self.lesions else math.nan


def read_rows(path: Path) -> list[Row]:
    """Read the table; relative paths are taken from its folder.

    Raises:
        MeasureError: if it is missing, lacks a column, repeats a case of a model, or is empty.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                msg = f"{path}: no column {lacking[0]!r}. The columns are {', '.join(COLUMNS)}."
                raise MeasureError(msg)
            lines = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read ({type(error).__name__}). Save it as CSV in UTF-8."
        raise MeasureError(msg) from error
    rows, known = [], set()
    names = {label.name for label in LABELS}
    for number, line in enumerate(lines, start=2):
        labels = tuple(part.strip() for part in (line.get("labels") or "").split(";") if part)
        wrong = next((name for name in labels if name not in names), None)
        if wrong or not all(line[name] for name in COLUMNS):
            why = f"{wrong!r} is no label" if wrong else "a field is empty"
            msg = f"{path}, line {number}: {why}. Mend the line."
            raise MeasureError(msg)
        key = (line["model"], line["case"])
        if key in known:
            msg = f"{path}, line {number}: case {key[1]} of model {key[0]} stands there twice."
            raise MeasureError(msg)
        known.add(key)
        files = (path.parent / line["prediction"], path.parent / line["reference"])
        rows.append(Row(line["case"], line["patient"], line["model"], *files, labels))
    if not rows:
        msg = f"{path}: no line to measure."
        raise MeasureError(msg)
    return rows


def measured(row: Row) -> list[Value]:
    """Measure one prediction, label by label.

    Raises:
        PastaError: if a file cannot be read or the grids differ.
    """
    reference = read_labelmap(row.reference)
    prediction = read_labelmap(row.prediction, reference.grid)
    present = set(np.unique(reference.voxels)) | set(np.unique(prediction.voxels))
    names = row.labels or tuple(
        label.name for label in LABELS if np.any(reference.voxels == label.value)
    )
    out = []
    for label in LABELS:
        if label.name not in names:
            continue
        values = [label.value]
        if label.kind == "organ":
            values += [lesion.value for lesion in lesions_of(label.name)]
        if not present & set(values):
            out.append(_value(row, label.name, None, None, reference, lesion=False))
            continue
        given, truth = (np.isin(each.voxels, values) for each in (prediction, reference))
        out.append(_value(row, label.name, given, truth, reference, lesion=label.kind != "organ"))
    return out


def _value(row: Row, name: str, given: Any, truth: Any, grid: Volume, *, lesion: bool) -> Value:
    ids = (row.case, row.patient, row.model, name)
    if given is None or not (given.any() or truth.any()):
        return Value(*ids, math.nan, math.nan, math.nan, math.nan, 0, 0, 0)
    spacing = grid.grid.spacing_mm
    hits, lesions, false = 0, 0, 0
    if lesion:
        hits, lesions = lesions_found(given, truth)
        parts, count = ndimage.label(given, structure=np.ones((3, 3, 3)))
        false = count - len(np.setdiff1d(np.unique(parts[truth]), [0]))
    difference = (int(given.sum()) - int(truth.sum())) * grid.grid.voxel_volume_mm3 / 1000
    return Value(
        *ids,
        dice(given, truth),
        surface_dice(given, truth, spacing, TOLERANCE_MM),
        hausdorff95(given, truth, spacing),
        difference,
        hits,
        lesions,
        false,
    )


def summarised(values: Sequence[Value], *, seed: int, baseline: str | None) -> list[dict[str, Any]]:
    """Build one row per model, label and metric: mean, 95 % interval over patients, test.

    Args:
        values: of `measured`.
        seed: of the resamples.
        baseline: model that the others are tested against (one-sided Wilcoxon, paired by case).
    """
    out = []
    for model, label in sorted({(each.model, each.label) for each in values}):
        here = [each for each in values if (each.model, each.label) == (model, label)]
        other = {e.case: e for e in values if (e.model, e.label) == (baseline, label)}
        false = [each.false_positives for each in here]
        for metric in METRICS:
            kept = [each for each in here if math.isfinite(getattr(each, metric))]
            if not kept:
                continue
            numbers = np.array([getattr(each, metric) for each in kept])
            found = bootstrap(
                lambda cases, numbers=numbers: float(numbers[cases].mean()),  # type: ignore[misc]
                [each.patient for each in kept],
                seed=seed,
            )
            row: dict[str, Any] = {
                "model": model,
                "label": label,
                "metric": metric,
                "cases": len(kept),
                "mean": found.value,
                "low": found.low,
                "high": found.high,
            }
            if metric == "sensitivity":
                row["false_positives_per_scan"] = float(np.mean(false))
            paired = [(e, other[e.case]) for e in kept if e.case in other]
            if baseline and model != baseline and paired and metric != "volume_difference_ml":
                sign = -1 if metric == "hd95_mm" else 1
                row["p_better_than_baseline"] = wilcoxon_better(
                    [sign * getattr(e, metric) for e, _ in paired],
                    [sign * getattr(b, metric) for _, b in paired],
                )
            out.append(row)
    return out


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write summary rows as a Markdown table."""
    lines = [
        "| model | label | metric | cases | mean | 95 % interval | false positives | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        false = row.get("false_positives_per_scan")
        p = row.get("p_better_than_baseline")
        lines.append(
            f"| {row['model']} | {row['label']} | {row['metric']} | {row['cases']} "
            f"| {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
            f"| {'' if false is None else f'{false:.2f}'} | {'' if p is None else f'{p:.3g}'} |"
        )
    return "\n".join(lines) + "\n"


def draw_figure(values: Sequence[Value], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw Dice by label as in the paper's Fig. 3b: one box a model, every case a dot, stars for p."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = sorted({each.model for each in values})
    labels = [
        label.name
        for label in LABELS
        if any(v.label == label.name and math.isfinite(v.dice) for v in values)
    ]
    figure, axes = plt.subplots(figsize=(max(4.0, 0.9 * len(labels) * len(models) + 1.5), 4.2))
    width = 0.8 / len(models)
    for index, model in enumerate(models):
        colour = f"C{index}"
        for place, label in enumerate(labels):
            at = place + (index - (len(models) - 1) / 2) * width
            numbers = [
                v.dice
                for v in values
                if (v.model, v.label) == (model, label) and math.isfinite(v.dice)
            ]
            if not numbers:
                continue
            axes.boxplot(
                numbers,
                positions=[at],
                widths=0.8 * width,
                showfliers=False,
                medianprops={"color": colour},
                boxprops={"color": colour},
            )
            axes.plot([at] * len(numbers), numbers, ".", color=colour, alpha=0.5)
            p = next(
                (
                    row.get("p_better_than_baseline")
                    for row in rows
                    if (row["model"], row["label"], row["metric"]) == (model, label, "dice")
                ),
                None,
            )
            stars = "" if p is None else "*" * sum(p < limit for limit in (0.05, 0.01, 0.001))
            axes.text(at, 1.03, stars, ha="center")
        axes.plot([], [], color=colour, label=model)
    axes.set_xticks(range(len(labels)), [name.replace("_", " ") for name in labels], rotation=30)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("Dice")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_measurement(
    values: Sequence[Value],
    failed: Mapping[str, str],
    out: Path,
    *,
    seed: int,
    baseline: str | None,
) -> list[dict[str, Any]]:
    """Write `measurement.json`, `cases.csv`, `summary.csv`, `summary.md` and `dice.png`."""
    out.mkdir(parents=True, exist_ok=True)
    rows = summarised(values, seed=seed, baseline=baseline)
    fields = [*Value.__dataclass_fields__]
    cases = [{name: getattr(each, name) for name in fields} for each in values]
    document = {
        "schema": SCHEMA,
        "tolerance_mm": TOLERANCE_MM,
        "seed": seed,
        "baseline": baseline,
        "failed": dict(failed),
        "summary": rows,
        "cases": [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in case.items()}
            for case in cases
        ],
    }
    with atomic_file(out / "measurement.json") as file:
        file.write((json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    (out / "summary.md").write_text(table(rows), encoding="utf-8")
    columns = [
        *("model", "label", "metric", "cases", "mean", "low", "high"),
        *("false_positives_per_scan", "p_better_than_baseline"),
    ]
    for name, lines, header in (("cases", cases, fields), ("summary", rows, columns)):
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, header)
            writer.writeheader()
            writer.writerows(lines)
    draw_figure(values, rows, out / "dice.png")
    return rows


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pairs", type=Path, help="CSV table of predictions and references")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--baseline", help="model that the others are tested against")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: status 1 if some case could not be measured, 2 if none."""
    args = build_parser().parse_args(argv)
    try:
        rows = read_rows(args.pairs)
        if args.baseline and args.baseline not in {row.model for row in rows}:
            msg = f"--baseline {args.baseline}: no such model in {args.pairs}."
            raise MeasureError(msg)
        values: list[Value] = []
        failed: dict[str, str] = {}
        for row in tqdm(rows, unit="case", disable=None):
            try:
                values += measured(row)
            except PastaError as error:  # the rest goes on
                failed[f"{row.model}/{row.case}"] = str(error)
        if not values:
            msg = (
                f"{args.pairs}: nothing could be measured. First: {next(iter(failed.values()), '')}"
            )
            raise MeasureError(msg)
        summary = write_measurement(
            values, failed, args.out, seed=args.seed, baseline=args.baseline
        )
    except PastaError as error:
        print(f"training.measure: {error}", file=sys.stderr)
        return 2
    print(table(summary), end="")
    for name, why in failed.items():
        print(f"training.measure: {name}: {why}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
