"""An example study: the paper's design, with image ids to be replaced. Standard library only."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.labels import LESIONS
from pasta.report.attributes import BY_NAME, LOCATIONS, PREDICTED
from pasta.study.cases import COLUMNS, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPLATE = Path(__file__).with_name("example.toml")
_ORGANS = ("liver", "pancreas", "kidney")
_TUMOURS, _CONTROLS = 60, 300  # per organ; Methods 6
_PATIENTS = 100  # per organ: 50 in each arm of a reader; Methods 9 speaks of 200, see the docs
_DESCRIBED = 50  # per lesion type; Results 2.7
# Extended Data Table 5: real CT scans, and as many synthetic ones
_FEW = frozenset(
    {
        "gallbladder_cancer",
        "esophageal_cancer",
        "gastric_cancer",
        "bladder_cancer",
        "bone_metastasis",
        "liver_cyst",
        "gallstone",
        "kidney_stone",
    }
)


def example_protocol() -> str:
    """Return the protocol, with comments."""
    return _TEMPLATE.read_text(encoding="utf-8")


def example_cases() -> str:
    """Write a case list of the right numbers; ids and truth are placeholders."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows())
    return text.getvalue()


def _rows() -> Iterator[dict[str, str]]:
    for organ in _ORGANS:
        yield {
            "image": f"training-{organ}",
            "organ": organ,
            "part": "screening",
            "positive": "1",
        }
        for number in range(1, _TUMOURS + _CONTROLS + 1):
            yield {
                "image": f"screening-{organ}-{number:03d}",
                "organ": organ,
                "part": "screening",
                "positive": "1" if number <= _TUMOURS else "0",
            }
    for part in ("segmentation", "reporting"):
        for organ in _ORGANS:
            for number in range(1, _PATIENTS + 1):
                yield {
                    "image": f"lesion-{organ}-{number:03d}",
                    "organ": organ,
                    "part": part,
                    "positive": "1",
                    "reference_mask": "reference",
                    **_description(organ, number),
                }
    for lesion in LESIONS:
        count = 30 if lesion.name in _FEW else 50
        for source in ("real", "synthetic"):
            for number in range(1, count + 1):
                yield {
                    "image": f"{source}-{lesion.name}-{number:03d}",
                    "organ": lesion.organ,
                    "part": "realism",
                    "source": source,
                    "group": lesion.name,
                }
    for lesion in LESIONS:
        for number in range(1, _DESCRIBED + 1):
            yield {
                "image": f"described-{lesion.name}-{number:03d}",
                "organ": lesion.organ,
                "part": "consistency",
                "source": "synthetic",
                "group": lesion.name,
                **_description(lesion.organ, number),
            }


def _description(organ: str, number: int) -> dict[str, str]:
    values = {}
    for place, name in enumerate(PREDICTED):
        options = BY_NAME[name].options
        values[REFERENCE + name] = options[(number + place) % len(options)]
    return {REFERENCE + "location": LOCATIONS[organ], **values}
