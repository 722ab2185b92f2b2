"""Write the module's two terminology files from `pasta.labels`.

python slicer_extension/write_terminology.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pasta.labels import LABELS, ORGANS, Code, Label

FOLDER = Path(__file__).resolve().parent / "PASTAAid" / "Resources"
SCHEMAS = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc"


def terminology() -> dict[str, Any]:
    """List categories, their types, and the organ of each lesion type as modifier."""
    categories: dict[Code, dict[Code, list[Label]]] = {}
    for label in LABELS:
        categories.setdefault(label.category, {}).setdefault(label.type, []).append(label)
    return {
        "SegmentationCategoryTypeContextName": "PASTA-AID",
        "@schema": f"{SCHEMAS}/segment-context-schema.json#",
        "SegmentationCodes": {
            "Category": [
                {
                    **_code(category),
                    "showAnatomy": "yes" if any(label.region for label in _all(types)) else "no",
                    "Type": [_type(code, labels) for code, labels in types.items()],
                }
                for category, types in categories.items()
            ]
        },
    }


def regions() -> dict[str, Any]:
    """List the ten organs as anatomic regions."""
    return {
        "AnatomicContextName": "PASTA-AID regions",
        "@schema": f"{SCHEMAS}/anatomic-context-schema.json#",
        "AnatomicCodes": {"AnatomicRegion": [_code(organ.type) for organ in ORGANS]},
    }


def _all(types: dict[Code, list[Label]]) -> list[Label]:
    return [label for labels in types.values() for label in labels]


def _type(code: Code, labels: list[Label]) -> dict[str, Any]:
    entry = _code(code)
    if labels[0].region is None:
        return {**entry, **_shown(labels[0])}
    modifiers = [{**_code(label.region), **_shown(label)} for label in labels if label.region]
    return {**entry, "Modifier": modifiers}


def _code(code: Code) -> dict[str, Any]:
    return {
        "CodingSchemeDesignator": code.scheme,
        "CodeValue": code.value,
        "CodeMeaning": code.meaning,
    }


def _shown(label: Label) -> dict[str, Any]:
    return {
        "recommendedDisplayRGBValue": list(label.color),
        "3dSlicerLabel": label.name,
        "3dSlicerIntegerLabel": label.value,
    }


def files() -> dict[Path, str]:
    """Name every file with the text that belongs in it."""
    return {
        FOLDER / name: json.dumps(document, indent=1) + "\n"
        for name, document in (
            ("PASTAAid.term.json", terminology()),
            ("PASTAAidRegions.term.json", regions()),
        )
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or with --check tell whether they are as they should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if one is stale")
    check = parser.parse_args(argv).check
    stale = [
        path
        for path, text in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            sys.stderr.write(f"{path}: is not what pasta.labels says; run this without --check.\n")
        else:
            path.write_text(files()[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
