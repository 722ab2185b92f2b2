"""Model specifications survive the disk, and wrong ones are refused by field."""

import dataclasses
import json

import pytest

from pasta.errors import CheckpointError
from pasta.spec import SPEC_FILE, ModelSpec, Segmental, WeightsFile, ZScore

SEGMENTATION = ModelSpec(
    name="seg",
    version="1",
    task="segmentation",
    title="Liver and its tumours",
    width=8,
    spacing_mm=(1.0, 1.0, 1.0),
    patch_shape=(64, 64, 64),
    intensity=ZScore((-100.0, 300.0), 50.0, 60.0),
    channels=("background", "liver_tumor", "liver"),
    weights=(WeightsFile("fold0.safetensors", "ab"),),
)
ATTRIBUTES = ModelSpec(
    name="att",
    version="1",
    task="attributes",
    title="t",
    width=8,
    spacing_mm=(1.0, 1.0, 1.0),
    patch_shape=(96, 96, 96),
    intensity=Segmental(),
    attributes={"shape": ("Round-like", "Irregular"), "density": ("a", "b", "c")},
)


@pytest.mark.parametrize("spec", [SEGMENTATION, ATTRIBUTES])
def test_a_specification_comes_back_from_its_file(spec, tmp_path):
    spec.save(tmp_path)
    assert ModelSpec.load(tmp_path) == spec


def test_output_channels_carry_the_label_values_of_table_9():
    assert SEGMENTATION.label_values == (0, 12, 2)
    assert (SEGMENTATION.num_outputs, ATTRIBUTES.num_outputs) == (3, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "name may hold"),
        ({"task": "guess"}, "task is 'guess'"),
        ({"width": 0}, "width"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
        ({"patch_shape": (64, 64, 50)}, "patch_shape"),
        ({"patch_shape": (48, 64, 64)}, "multiples of 32"),
        ({"patch_shape": (32, 32, 32)}, "64 along one axis"),
        ({"channels": ("liver", "background")}, "must start with 'background'"),
        ({"channels": ("background", "spleen")}, "unknown labels: spleen"),
        ({"axcodes": "LLS"}, "axcodes"),
        ({"weights": (WeightsFile("../x.safetensors", ""),)}, "without a folder"),
        ({"task": "screening"}, "organs must name"),
    ],
)
def test_a_wrong_field_is_named(changes, words):
    with pytest.raises(CheckpointError, match=words):
        dataclasses.replace(SEGMENTATION, **changes)


def test_files_of_another_kind_are_refused_with_the_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"spec\.json: not found"):
        ModelSpec.load(tmp_path)
    (tmp_path / SPEC_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        ModelSpec.load(tmp_path)
    (tmp_path / SPEC_FILE).write_text(json.dumps({"schema_version": 9}))
    with pytest.raises(CheckpointError, match="schema_version is 9"):
        ModelSpec.load(tmp_path)
    SEGMENTATION.save(tmp_path)
    document = json.loads((tmp_path / SPEC_FILE).read_text())
    del document["width"]
    (tmp_path / SPEC_FILE).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="width"):
        ModelSpec.load(tmp_path)
