"""The codes and colours of the 25 labels, as Slicer's terminologies know them."""

from __future__ import annotations

from pathlib import Path

import slicer

from pasta.labels import LABELS, Code, Label

CONTEXT = "PASTA-AID"
REGION_CONTEXT = "PASTA-AID regions"
FOLDER = Path(__file__).resolve().parent.parent / "Resources"
FILE = FOLDER / "PASTAAid.term.json"
REGION_FILE = FOLDER / "PASTAAidRegions.term.json"
_NO_CODE = "^^"


def load() -> bool:
    """Load both files into Slicer, so that they can be chosen in its terminology selector."""
    logic = slicer.modules.terminologies.logic()
    return bool(
        logic.LoadTerminologyFromFile(str(FILE))
        and logic.LoadRegionContextFromFile(str(REGION_FILE))
    )


def entryOf(label: Label) -> str:
    """Write a label as Slicer's serialized terminology entry."""
    return "~".join(
        (
            CONTEXT,
            _coded(label.category),
            _coded(label.type),
            _NO_CODE,
            REGION_CONTEXT if label.region else "",
            _coded(label.region) if label.region else _NO_CODE,
            _NO_CODE,
        )
    )


def labelOf(entry: str) -> Label | None:
    """Find the label that a serialized entry of any context codes; None where it is none of ours.

    A lesion's organ is read from the region, or from the modifier as the selector offers it.
    """
    fields = [field.split("^") for field in entry.split("~")]
    if len(fields) != 7:
        return None
    codes = [tuple(field[:2]) if len(field) == 3 else ("", "") for field in fields]
    kind, modifier, region = codes[2], codes[3], codes[5]
    for label in LABELS:
        if _key(label.type) != kind:
            continue
        if label.region is None or _key(label.region) in (region, modifier):
            return label
    return None


def _coded(code: Code) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}"


def _key(code: Code) -> tuple[str, str]:
    return code.scheme, code.value
