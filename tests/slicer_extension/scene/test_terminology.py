"""The terminology files: what `pasta.labels` says, in Slicer's words."""

import importlib.util
import json
from pathlib import Path

import pytest

from pasta.labels import LABELS

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

SCRIPT = Path(__file__).resolve().parents[3] / "slicer_extension" / "write_terminology.py"


def script():
    spec = importlib.util.spec_from_file_location("write_terminology", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_script_writes():
    assert script().main(["--check"]) == 0


def test_each_of_the_25_labels_has_an_entry_with_its_colour(host):
    from PASTAAidGui import Terminology

    document = json.loads(Terminology.FILE.read_text())
    leaves = {}
    for category in document["SegmentationCodes"]["Category"]:
        for kind in category["Type"]:
            for leaf in kind.get("Modifier", [kind]):
                leaves[leaf["3dSlicerLabel"]] = tuple(leaf["recommendedDisplayRGBValue"])
    assert leaves == {label.name: label.color for label in LABELS}


def test_slicer_loads_both_files_and_finds_the_codes(host):
    from PASTAAidGui import Terminology

    assert Terminology.load()
    logic = slicer.modules.terminologies.logic()
    assert logic.GetNumberOfCategoriesInTerminology(Terminology.CONTEXT) == 3
    assert logic.GetNumberOfRegionsInRegionContext(Terminology.REGION_CONTEXT) == 10


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_every_entry_leads_back_to_its_label(label, host):
    from PASTAAidGui import Terminology

    assert Terminology.labelOf(Terminology.entryOf(label)) is label
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.vtkSlicerTerminologiesModuleLogic
    assert logic.DeserializeTerminologyEntry(Terminology.entryOf(label), entry)
    assert logic.SerializeTerminologyEntry(entry) == Terminology.entryOf(label)


def test_foreign_codes_are_none_of_ours(host):
    from PASTAAidGui import Terminology

    assert Terminology.labelOf("") is None
    spleen = "Any~SCT^123037004^Anatomical Structure~SCT^78961009^Spleen~^^~~^^~^^"
    assert Terminology.labelOf(spleen) is None
