"""A report in a radiologist's words: one line a lesion, or the full text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pasta import RESEARCH_USE_ONLY
from pasta.labels import label_named
from pasta.report.attributes import LOCATIONS, PREDICTED, attribute_named

if TYPE_CHECKING:
    from pasta.report.findings import Finding, LesionReport, Measurement, Report

_PHRASES = {"Irregular": "irregular shape", "Round-like": "round-like shape"}


def _phrase(option: str) -> str:
    return _PHRASES.get(option, option[0].lower() + option[1:])


def percent(probability: float) -> str:
    """Write a probability in percent."""
    return f"{100 * min(probability, 0.99):.0f} %"  # never "100 %": no network is certain


def size_text(size_mm: tuple[float, float, float]) -> str:
    """Write a size (z, x, y) as the value of the size attribute, such as "24 x 31 x 28 mm"."""
    return " x ".join(f"{extent:.0f}" for extent in size_mm) + " mm"


def volume_text(volume_ml: float) -> str:
    """Write a volume, such as "0.42 ml" or "12.3 ml"."""
    return f"{volume_ml:.2g} ml" if volume_ml < 1 else f"{volume_ml:.1f} ml"


def one_line(lesion: LesionReport) -> str:
    """Describe a lesion in one line; what only the meter saw is marked "measured"."""
    parts = []
    for name in PREDICTED:
        finding = lesion.findings[name]
        measured = finding.measured.value if finding.measured else None
        if finding.value is not None:
            doubt = " (measurement disagrees)" if finding.disagrees else ""
            parts.append(_phrase(finding.value) + doubt)
        elif measured is not None:
            parts.append(f"{_phrase(measured)} (measured)")
        else:
            parts.append(f"{name} not assessable")
    enhancement = lesion.findings["enhancement"].value or "enhancement status unknown"
    return (
        f"{_headline(lesion)}: {', '.join(parts)}; {enhancement}. "
        "[AI output, research use only, not verified]"
    )


def _headline(lesion: LesionReport) -> str:
    label = label_named(lesion.label)
    location = lesion.findings["location"].value
    home = LOCATIONS[label.organ]
    place = "" if location in (None, home) else f" at the {str(location).lower()}"
    # z, x, y spelt out: a reader takes three bare numbers for length x width x depth
    return (
        f"{lesion.number}. {label.title}{place}, {size_text(lesion.size_mm)} (Z x X x Y), "
        f"{volume_text(lesion.volume_ml)}"
    )


def full_text(report: Report) -> str:
    """Write the whole report; every statement carries who made it."""
    case = report.case
    voxels = " x ".join(str(n) for n in case.shape)
    spacing = " x ".join(f"{s:.2f}" for s in case.spacing_mm)
    lines = [
        "STRUCTURED CT REPORT - PRELIMINARY, MACHINE-WRITTEN",
        RESEARCH_USE_ONLY,
        "",
        "TECHNIQUE",
        f"Enhancement status: {_statement(report.enhancement)}.",
        f"{voxels} voxels of {spacing} mm.",
        "",
        "FINDINGS",
    ]
    if not report.lesions:
        lines.append("No lesion is marked in this scan. This does not exclude one.")
    for lesion in report.lesions:
        lines += _lesion_lines(lesion)
    lines += ["", "IMPRESSION", _impression(report)]
    if report.warnings:
        lines += ["", "CAUTION", *(f"- {warning}" for warning in report.warnings)]
    lines += ["", RESEARCH_USE_ONLY]
    return "\n".join(lines) + "\n"


def _lesion_lines(lesion: LesionReport) -> list[str]:
    lines = [f"{_headline(lesion)}."]
    for name in ("location", *PREDICTED):
        title = attribute_named(name).title
        lines.append(f"   {title}: {_statement(lesion.findings[name])}.")
    right, front, up = lesion.centre_mm
    lines.append(f"   Centre (R, A, S): {right:.0f}, {front:.0f}, {up:.0f} mm.")
    lines += [f"   Caution: {warning}" for warning in lesion.warnings]
    return lines


def _statement(finding: Finding) -> str:
    """Value, who says so, and the measurement beside it."""
    measured = finding.measured
    if finding.value is None:
        return _unstated(finding)
    probability = finding.probabilities.get(finding.value)
    parts = [
        finding.source if probability is None else f"{finding.source} {percent(probability)}",
        finding.note.rstrip("."),
    ]
    if measured is not None:
        parts.append(
            f"MEASURED OTHERWISE, please check: {_measurement(measured)}"
            if finding.disagrees
            else _measurement(measured, agrees=measured.value == finding.value)
        )
    return f"{finding.value} ({'; '.join(part for part in parts if part)})"


def _unstated(finding: Finding) -> str:
    measured, note = finding.measured, finding.note.rstrip(".")
    if measured is None or (measured.value is None and not measured.note):
        return f"not stated ({note})" if note else "not stated"
    if measured.value is None:
        return f"not assessable ({'; '.join(part for part in (note, measured.note) if part)})"
    text = f"{_measurement(measured)} by measurement alone"
    return f"{text} ({note})" if note else text


def _measurement(measured: Measurement, *, agrees: bool = False) -> str:
    if measured.value is None:
        return f"measurement not assessable, {measured.note.rstrip('.')}"
    numbers = ", ".join(_quantity(name, value) for name, value in measured.numbers.items())
    note = measured.note.rstrip(".")
    detail = "; ".join(part for part in (numbers, note) if part)
    head = "measured alike" if agrees else measured.value
    return f"{head} [{detail}]" if detail else head


def _quantity(name: str, value: float) -> str:
    for ending, unit in (("_hu", " HU"), ("_mm", " mm")):
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} {value:.3g}{unit}"
    return f"{name.replace('_', ' ')} {value:.3g}"


def _impression(report: Report) -> str:
    if not report.lesions:
        return "No marked lesion."
    counts = Counter(lesion.label for lesion in report.lesions)
    groups = []
    for name, count in counts.items():
        largest = max(max(item.size_mm) for item in report.lesions if item.label == name)
        title = label_named(name).title.lower()
        words = title if count == 1 else plural(title)
        extent = f"{largest:.0f} mm" if count == 1 else f"largest {largest:.0f} mm"
        groups.append(f"{count} {words} ({extent})")
    doubtful = sum(
        any(finding.disagrees for finding in lesion.findings.values()) for lesion in report.lesions
    )
    text = f"{'; '.join(groups)}."
    if doubtful:
        text += f" In {doubtful} the network and the measurement disagree."
    return text


def plural(title: str) -> str:
    """Write the plural of a label's title."""
    return f"{title[:-3]}ses" if title.endswith("sis") else f"{title}s"
