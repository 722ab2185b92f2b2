"""Screening on networks whose answer is known, and on a real CT."""

import json
import re
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
import pytest
import torch

from pasta.errors import CancelledError, CheckpointError, LabelError
from pasta.geometry import Acquisition, Volume, reoriented
from pasta.inference.screening import screen
from pasta.networks.checkpoint import build_network, load_model, save_model
from pasta.networks.unet import PastaClassifier
from pasta.spec import ModelSpec, Segmental

CPU = torch.device("cpu")
SPEC = ModelSpec(
    name="bright-ball",
    version="1",
    task="screening",
    title="Finds bright balls",
    width=1,
    spacing_mm=(1.0, 1.0, 1.0),
    patch_shape=(96, 96, 96),
    axcodes="SAL",
    intensity=Segmental((100.0, 300.0), (0.0, 1.0)),  # air and soft tissue are the same: 0
    organs=("kidney", "liver"),
)


def ball_network(gain: float, bias: float) -> PastaClassifier:
    """A smoothing encoder; the log-odds are gain x mean of its last map + bias.

    Instance norm makes that mean about 0 without, and above 0.1 with, a bright spot.
    """
    network = PastaClassifier(2, width=SPEC.width)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for level in network.conv_blocks_context:
            for block in level.blocks:
                block.conv.weight[0, 0] = 1 / 27
                block.instnorm.weight[0] = 1
        network.head[0].weight[0, 0] = 1
        network.head[2].weight[0, 0] = 1
        network.head[4].weight[1, 0] = gain
        network.head[4].bias[1] = bias
    return network


@dataclass
class KnownModel:
    """Stands where a model folder would: networks in memory instead of files."""

    spec: ModelSpec
    folds: list
    loads: list = field(default_factory=list)

    def networks(self, device):
        self.loads.append(device)
        return self.folds


def ball_model(*folds):
    return KnownModel(SPEC, [ball_network(*fold) for fold in folds or [(40.0, -4.0)]])


AFFINE = np.array(
    [[0.0, 1.5, 0.0, -70.0], [-1.2, 0.0, 0.0, 60.0], [0.0, 0.0, 3.0, -200.0], [0, 0, 0, 1]]
)
SHAPE = (110, 100, 45)  # axes to the back, to the right, upwards


def world_mm():
    return np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]


def phantom(ball_mm=None, radius_mm=12.0):
    """A kidney label of 36 x 45 x 45 mm in soft tissue, with a bright ball if wanted."""
    ct = np.full(SHAPE, 40, np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[40:70, 35:65, 15:30] = 8
    if ball_mm is not None:
        ball = np.linalg.norm(world_mm() - ball_mm, axis=-1) < radius_mm
        ct[ball] = 250
        labels[ball & (labels == 8)] = 18  # the tumour label counts as kidney
    return Volume(ct, AFFINE), Volume(labels, AFFINE)


BALL_MM = AFFINE[:3, :3] @ (48, 57, 24) + AFFINE[:3, 3]


def test_a_tumour_is_told_from_none():
    models = {"kidney": ball_model()}
    (sick,) = screen(*phantom(BALL_MM), models, device=CPU).organs
    (healthy,) = screen(*phantom(), models, device=CPU).organs
    assert sick.status == healthy.status == "screened"
    assert sick.probability > 0.9
    assert healthy.probability < 0.1


def test_volume_and_box_are_those_of_organ_and_lesion_with_margin():
    (found,) = screen(*phantom(BALL_MM), {"kidney": ball_model()}, device=CPU).organs
    assert found.volume_ml == pytest.approx(30 * 30 * 15 * 1.2 * 1.5 * 3 / 1000)
    # 24 mm are 20, 16 and 8 voxels
    assert found.box_voxels == ((20, 90), (19, 81), (7, 38))
    np.testing.assert_allclose(
        found.box_mm,
        [
            (-70 + 1.5 * 18.5, -70 + 1.5 * 80.5),
            (60 - 1.2 * 89.5, 60 - 1.2 * 19.5),
            (-200 + 3 * 6.5, -200 + 3 * 37.5),
        ],
        atol=1.0,  # the model's voxels are 1 mm
    )


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SAR", "IPL"])
def test_the_orientation_of_the_file_does_not_change_the_answer(axcodes):
    torch.manual_seed(0)
    model = KnownModel(replace(SPEC, width=2), [PastaClassifier(2, width=2)])
    ct, labelmap = phantom(BALL_MM)
    first = screen(ct, labelmap, {"kidney": model}, device=CPU, evidence=True)
    other = screen(
        reoriented(ct, axcodes),
        reoriented(labelmap, axcodes),
        {"kidney": model},
        device=CPU,
        evidence=True,
    )
    assert other.organs[0].probability == pytest.approx(first.organs[0].probability, abs=1e-5)
    assert other.organs[0].box_mm == pytest.approx(np.array(first.organs[0].box_mm))
    np.testing.assert_allclose(
        other.evidence.voxels, reoriented(first.evidence, axcodes).voxels, atol=1e-5
    )


@pytest.mark.parametrize("place", [(48, 57, 24), (62, 40, 18)])
@pytest.mark.parametrize("patch", [(96, 96, 96), (128, 128, 128), (64, 64, 64)])
def test_the_evidence_lies_where_the_ball_is(place, patch):
    ball_mm = AFFINE[:3, :3] @ place + AFFINE[:3, 3]
    model = ball_model()
    model.spec = replace(SPEC, patch_shape=patch)
    ct, labelmap = phantom(ball_mm)
    found = screen(ct, labelmap, {"kidney": model}, device=CPU, evidence=True)
    evidence = found.evidence
    assert evidence.voxels.shape == SHAPE
    np.testing.assert_array_equal(evidence.affine, AFFINE)
    assert evidence.voxels.max() == pytest.approx(found.organs[0].probability, abs=1e-5)
    assert evidence.voxels.min() == 0
    outside = np.ones(SHAPE, bool)
    outside[tuple(slice(a, b) for a, b in found.organs[0].box_voxels)] = False
    assert not evidence.voxels[outside].any()
    hot = evidence.voxels > 0.5 * evidence.voxels.max()
    centre = np.average(world_mm()[hot], axis=0, weights=evidence.voxels[hot])
    cell_mm = 16 * max(1.0, 93 / patch[0])
    assert np.abs(centre - ball_mm).max() < cell_mm / 2


def test_probability_is_the_mean_of_the_folds_and_the_spread_is_theirs():
    model = ball_model((0.0, 1.0), (0.0, -1.0), (0.0, 0.0))
    (found,) = screen(*phantom(), {"kidney": model}, device=CPU).organs
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(found.fold_probabilities, [p, 1 - p, 0.5], atol=1e-6)
    entry = found.document()
    assert entry["probability"] == pytest.approx(0.5, abs=1e-6)
    assert entry["spread"]["min"] == pytest.approx(1 - p, abs=1e-6)
    assert entry["spread"]["max"] == pytest.approx(p, abs=1e-6)
    assert entry["spread"]["sd"] == pytest.approx(np.sqrt(2 / 3) * (p - 0.5), abs=1e-6)


def test_one_fold_has_no_spread():
    (found,) = screen(*phantom(), {"kidney": ball_model()}, device=CPU).organs
    assert found.document()["spread"] is None


def labelled(*boxes):
    labels = np.zeros(SHAPE, np.uint8)
    for value, *bounds in boxes:
        labels[tuple(slice(a, b) for a, b in bounds)] = value
    return Volume(labels, AFFINE)


@pytest.mark.parametrize(
    ("labelmap", "status", "words"),
    [
        (labelled(), "absent", "not found"),
        (labelled((2, (40, 70), (40, 70), (10, 20))), "absent", "not found"),  # liver is another
        (labelled((8, (40, 49), (40, 49), (10, 18))), "too_small", r"3\.5 ml"),
        (labelled((8, (40, 70), (40, 70), (30, 45))), "cut_off", "superior edge"),
        (labelled((8, (40, 70), (40, 70), (0, 20))), "cut_off", "inferior edge"),
        (labelled((8, (0, 30), (70, 100), (10, 20))), "cut_off", "anterior and right edge"),
        (labelled((18, (80, 110), (0, 30), (10, 20))), "cut_off", "posterior and left edge"),
    ],
)
def test_no_number_where_the_organ_is_not_wholly_there(labelmap, status, words):
    ct, _ = phantom()
    model = ball_model()
    found = screen(ct, labelmap, {"kidney": model}, device=CPU, evidence=True)
    (entry,) = found.document()["organs"]
    assert entry["status"] == status
    assert re.search(words, entry["sentence"])
    assert entry["probability"] is None
    assert entry["folds"] == []
    assert entry["box_voxels"] is None
    assert not found.evidence.voxels.any()
    assert model.loads == []  # not even loaded


def test_two_kidneys_are_one_organ_and_a_speck_at_the_edge_is_none():
    kidneys = labelled(
        (8, (40, 60), (20, 35), (15, 30)),
        (8, (40, 60), (65, 80), (15, 30)),
        (8, (0, 2), (0, 2), (0, 2)),
    )
    ct, _ = phantom()
    (found,) = screen(ct, kidneys, {"kidney": ball_model()}, device=CPU).organs
    assert found.status == "screened"
    assert found.box_voxels == ((20, 80), (4, 96), (7, 38))
    assert found.volume_ml == pytest.approx(2 * 20 * 15 * 15 * 5.4 / 1000)
    assert found.document()["ignored_islands"] == {
        "volume_ml": pytest.approx(8 * 5.4 / 1000, abs=1e-3),
        "edges": ["anterior", "left", "inferior"],
    }


KIDNEYS = ((8, (40, 60), (20, 35), (15, 30)), (8, (40, 60), (65, 80), (15, 30)))


@pytest.mark.parametrize(
    ("boxes", "status", "ignored_ml"),
    [
        # both kidneys are whole, so a tenth of a kidney at the scan's end is none
        ((*KIDNEYS, (8, (80, 100), (40, 50), (43, 45))), "screened", 400 * 5.4 / 1000),
        ((*KIDNEYS, (8, (80, 100), (40, 50), (0, 2))), "screened", 400 * 5.4 / 1000),
        # one kidney is whole: the same island may be the rest of the other
        ((KIDNEYS[0], (8, (40, 60), (65, 75), (43, 45))), "cut_off", 0),
        # half a kidney at the end is a kidney, whatever else there is
        ((*KIDNEYS, (8, (80, 100), (40, 50), (35, 45))), "cut_off", 0),
        # away from the ends nothing is taken for false
        ((*KIDNEYS, (8, (80, 100), (40, 50), (40, 42))), "screened", 0),
    ],
)
def test_an_island_at_the_edge_counts_only_if_it_may_be_the_organ(boxes, status, ignored_ml):
    ct, _ = phantom()
    (found,) = screen(ct, labelled(*boxes), {"kidney": ball_model()}, device=CPU).organs
    assert found.status == status
    entry = found.document()
    assert entry["ignored_islands"]["volume_ml"] == pytest.approx(ignored_ml, abs=1e-3)
    assert bool(entry["ignored_islands"]["edges"]) == (ignored_ml > 0)
    assert ("were ignored" in entry["sentence"]) == (ignored_ml > 0)


def test_a_liver_is_one_part_so_that_islands_at_the_edge_do_not_hide_it():
    island = (2, (80, 100), (40, 50), (43, 45))
    liver = labelled((2, (40, 70), (20, 60), (15, 30)), island)
    ct, _ = phantom()
    (found,) = screen(ct, liver, {"liver": ball_model()}, device=CPU).organs
    assert found.status == "screened"
    assert found.ignored_at == "superior"


def test_a_document_is_plain_json():
    ct, labelmap = phantom(BALL_MM)
    model = ball_model((40.0, -4.0), (20.0, 0.0))
    models = {"kidney": model, "liver": model}
    found = screen(ct, labelmap, models, device=CPU, evidence=True)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [entry["organ"] for entry in document["organs"]] == ["kidney", "liver"]
    assert [entry["status"] for entry in document["organs"]] == ["screened", "absent"]
    assert document["organs"][0]["title"] == "Kidney"
    assert document["organs"][0]["model"] == "bright-ball"


def test_folds_that_serve_two_organs_are_loaded_once():
    ct, _ = phantom()
    both = labelled((8, (40, 70), (40, 60), (15, 30)), (2, (40, 70), (65, 85), (15, 30)))
    model = ball_model()
    screen(ct, both, {"kidney": model, "liver": model}, device=CPU)
    assert len(model.loads) == 1


@pytest.mark.parametrize(("contrast", "count"), [(True, 1), (False, 0), (None, 0)])
def test_contrast_is_warned_of(contrast, count):
    ct, labelmap = phantom()
    ct = replace(ct, acquisition=Acquisition(contrast, "ContrastBolusAgent (0018,0010)"))
    warnings = screen(ct, labelmap, {"kidney": ball_model()}, device=CPU).warnings
    assert len(warnings) == count
    assert all("ContrastBolusAgent" in text and "non-contrast" in text for text in warnings)


def test_progress_rises_to_one_and_can_stop_the_work():
    told = []
    model = ball_model((1.0, 0.0), (1.0, 0.0))
    ct, labelmap = phantom()
    screen(
        ct,
        labelmap,
        {"kidney": model, "liver": model},
        device=CPU,
        progress=lambda fraction, stage: told.append((fraction, stage)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert {0.0, 0.25, 0.5, 1.0} <= set(fractions)
    assert {stage for _, stage in told} == {"screening"}

    def stop(fraction, stage):
        if fraction > 0:
            raise CancelledError

    with pytest.raises(CancelledError):
        screen(ct, labelmap, {"kidney": model}, device=CPU, progress=stop)


def test_organs_without_a_model_and_other_grids_are_refused():
    ct, labelmap = phantom()
    models = {"kidney": ball_model()}
    with pytest.raises(LabelError, match="no screening model for the liver; there is one for kid"):
        screen(ct, labelmap, models, ["liver"], device=CPU)
    with pytest.raises(LabelError, match="unknown organ 'spleen'"):
        screen(ct, labelmap, models, ["spleen"], device=CPU)
    with pytest.raises(LabelError, match="not on the grid"):
        screen(ct, Volume(labelmap.voxels, np.eye(4)), models, device=CPU)


def test_an_answer_that_is_not_finite_is_refused():
    model = ball_model((float("nan"), 0.0))
    with pytest.raises(CheckpointError, match="bright-ball, fold 0: the answer is not finite"):
        screen(*phantom(BALL_MM), {"kidney": model}, device=CPU)


def test_a_model_of_another_task_is_refused():
    model = ball_model()
    model.spec = replace(SPEC, task="attributes", attributes={"shape": ("Round-like", "Irregular")})
    with pytest.raises(CheckpointError, match="not made for screening"):
        screen(*phantom(), {"kidney": model}, device=CPU)


def test_liver_and_kidneys_of_a_real_ct_are_screened_from_a_saved_ensemble(real_data, tmp_path):
    case = real_data / "ct" / "ts_example"
    names = json.loads((case / "labels.json").read_text())["organs"]
    image, organs = nib.load(case / "ct.nii.gz"), nib.load(case / "organs.nii.gz")
    values = np.asarray(organs.dataobj)
    labels = np.zeros(values.shape, np.uint8)
    for value, name in names.items():
        target = {"liver": 2, "kidney_left": 8, "kidney_right": 8, "urinary_bladder": 9}.get(name)
        if target:
            labels[values == int(value)] = target
    ct = Volume(np.asarray(image.dataobj, dtype=np.int16), image.affine)
    spec = replace(SPEC, width=2, intensity=Segmental(), organs=("liver", "kidney", "lung"))
    torch.manual_seed(0)
    save_model([build_network(spec) for _ in range(2)], spec, tmp_path)
    model = load_model(tmp_path)
    found = screen(
        ct,
        Volume(labels, image.affine),
        dict.fromkeys(spec.organs, model),
        device=CPU,
        evidence=True,
    )
    by_name = {finding.organ: finding for finding in found.organs}
    assert by_name["lung"].status == "absent"
    for organ, value in (("liver", 2), ("kidney", 8)):
        finding = by_name[organ]
        count = np.count_nonzero(labels == value)
        assert finding.volume_ml == pytest.approx(count * 0.027, rel=0.03)
        if finding.status == "cut_off":
            continue
        inside = labels[tuple(slice(a, b) for a, b in finding.box_voxels)]
        assert np.count_nonzero(inside == value) >= 0.97 * count
        assert 0 < finding.probability < 1
        assert len(finding.fold_probabilities) == 2
    assert by_name["kidney"].status == "screened"
    assert 0 < found.evidence.voxels.max() < 1
