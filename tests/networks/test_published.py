"""Every layout that PASTA was published in is read, told and imported; all else is refused."""

import collections
import importlib.util
import itertools
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasta.errors import CheckpointError
from pasta.labels import LABELS
from pasta.networks.checkpoint import load_model
from pasta.networks.importing import DEFAULT_INTENSITY, import_checkpoint
from pasta.networks.published import inspect_checkpoint
from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.spec import Segmental, ZScore

_LAYOUT = importlib.util.spec_from_file_location(
    "official_layout", Path(__file__).with_name("official_layout.py")
)
official = importlib.util.module_from_spec(_LAYOUT)
_LAYOUT.loader.exec_module(official)

CPU = torch.device("cpu")
ALL_CHANNELS = ("background", *(label.name for label in LABELS))


def seg_state(classes=26, seed=0, **kwargs):
    return official.random_state(official.unet_shapes(official.NARROW, classes, **kwargs), seed)


def cls_state(outputs=14, classes=14, seed=0):
    shapes = official.unet_shapes(official.NARROW, classes)
    return official.random_state(shapes | official.head_shapes(official.NARROW, outputs), seed)


def nnunet_document(state, labels=None, prefix="", **plans):
    """What nnUNetTrainer.save_checkpoint of nnU-Net 2.4 writes, training log included."""
    plans = {
        "dataset_name": "Dataset006_Lung",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "patch_size": [128, 128, 128],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["CTNormalization"],
            }
        },
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 3071.0,
                "mean": -274.5,
                "median": -100.0,
                "min": -1024.0,
                "percentile_00_5": -1000.0,
                "percentile_99_5": 320.0,
                "std": 411.25,
            }
        },
        **plans,
    }
    return {
        "network_weights": {prefix + name: tensor for name, tensor in state.items()},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 3},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float64(0.625)],
            "dice_per_class_or_region": [[np.float32(0.5)], [np.float64(0.625)]],
            "train_losses": [np.float32(-0.5), np.array(-0.25, dtype=np.float32)],
            "lrs": [1e-4, 9e-5],
            "epoch_start_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.6),
        "current_epoch": 500,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": labels} if labels else {},
            "unpack_dataset": True,
            "device": torch.device("cpu"),
        },
        "trainer_name": "TotalLesionTrainer_ft",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def written(path: Path, document, **kwargs) -> Path:
    torch.save(document, path, **kwargs)
    return path


def assert_same_weights(network, state, dropped=()):
    loaded = network.state_dict()
    kept = {name: t for name, t in state.items() if not name.startswith(tuple(dropped))}
    assert loaded.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(loaded[name], tensor.half().float())


# ---- the network is the published one -----------------------------------------------------------


def test_names_and_shapes_at_width_64_are_the_published_ones():
    with torch.device("meta"):
        state = PastaUNet(26).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == official.unet_shapes()
    assert len(state) == 98


def test_the_classifier_at_width_64_is_the_published_one():
    with torch.device("meta"):
        state = PastaClassifier(14).state_dict()
    unused = ("conv_blocks_context.5", "conv_blocks_localization", "tu.", "seg_outputs")
    shapes = official.unet_shapes() | official.head_shapes()
    assert len(shapes) == 104
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        name: shape for name, shape in shapes.items() if not name.startswith(unused)
    }
    assert sum(t.numel() for t in state.values()) == 57_185_870


@pytest.mark.parametrize(
    ("prefix", "parameters"),
    [
        ("", 240_313_664),
        ("conv_blocks_context.0.", 112_704),
        ("conv_blocks_context.1.", 664_320),
        ("conv_blocks_context.2.", 2_655_744),
        ("conv_blocks_context.3.", 10_619_904),
        ("conv_blocks_context.4.", 42_473_472),
        ("conv_blocks_context.5.", 56_629_248),
        ("conv_blocks_localization.0.", 84_940_800),
        ("conv_blocks_localization.1.", 21_236_736),
        ("conv_blocks_localization.2.", 5_309_952),
        ("conv_blocks_localization.3.", 1_327_872),
        ("conv_blocks_localization.4.", 332_160),
        ("tu.", 13_959_168),
        ("seg_outputs.", 51_584),
    ],
)
def test_the_typed_table_has_the_measured_parameter_counts(prefix, parameters):
    shapes = official.unet_shapes()
    assert (
        sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        == parameters
    )


@pytest.mark.slow
def test_a_full_size_checkpoint_loads_strictly(tmp_path):
    state = official.random_state(official.unet_shapes())
    path = written(tmp_path / "PASTA_final.pth", state)
    found = inspect_checkpoint(path)
    assert (found.parameters, found.width, found.num_classes) == (240_313_664, 64, 26)
    import_checkpoint([path], tmp_path / "model", default_intensity=True)
    (network,) = load_model(tmp_path / "model").networks(CPU)
    assert sum(p.numel() for p in network.parameters()) == 240_313_664
    assert_same_weights(network, state)


# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before torch 1.6"])
def test_the_flat_file_of_all_classes_becomes_a_segmentation_model(old_format, tmp_path):
    state = seg_state()
    path = written(
        tmp_path / "PASTA_final.pth", state, _use_new_zipfile_serialization=not old_format
    )
    found = inspect_checkpoint(path)
    assert (found.layout, found.num_classes, found.num_outputs, found.width) == (
        "flat",
        26,
        None,
        4,
    )
    model = import_checkpoint([path], tmp_path / "m", intensity=ZScore((-900.0, 900.0), 1.0, 2.0))
    assert model.spec.channels == ALL_CHANNELS
    assert model.spec.label_values == tuple(range(26))
    assert model.spec.axcodes == "SPL"  # nnU-Net reads LPS files as (z, y, x)
    assert model.spec.patch_shape == (128, 128, 128)
    assert model.spec.spacing_mm == (1.0, 1.0, 1.0)
    assert model.spec.intensity == ZScore((-900.0, 900.0), 1.0, 2.0)
    (network,) = load_model(tmp_path / "m").networks(CPU)
    assert_same_weights(network, state)


def test_unknown_intensity_must_be_given_or_the_default_accepted(tmp_path):
    path = written(tmp_path / "PASTA_final.pth", seg_state())
    with pytest.raises(CheckpointError, match="never released") as caught:
        import_checkpoint([path], tmp_path / "m")
    assert "--clip-hu" in str(caught.value)
    assert "--default-intensity" in str(caught.value)
    model = import_checkpoint([path], tmp_path / "m", default_intensity=True)
    assert model.spec.intensity == DEFAULT_INTENSITY


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_an_nnunet_checkpoint_brings_labels_and_intensity(prefix, tmp_path):
    state = seg_state(3)
    labels = {"background": 0, "Lung": 1, "lung tumour": 2}
    path = written(tmp_path / "checkpoint_final.pth", nnunet_document(state, labels, prefix))
    found = inspect_checkpoint(path)
    assert found.layout == "nnunet"
    assert found.trainer == "TotalLesionTrainer_ft"
    assert found.class_names == ("background", "Lung", "lung tumour")
    model = import_checkpoint([path], tmp_path / "m")
    assert model.spec.channels == ("background", "lung", "lung_tumor")
    assert model.spec.intensity == ZScore((-1000.0, 320.0), -274.5, 411.25)
    (network,) = model.networks(CPU)
    assert_same_weights(network, state)


def test_the_training_log_of_numpy_1_is_read_too(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    written(path, nnunet_document(seg_state(3)), _use_new_zipfile_serialization=False)
    data = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"cnumpy.core.multiarray\nscalar" in data
    path.write_bytes(data)
    assert inspect_checkpoint(path).num_classes == 3


def test_labels_are_asked_for_where_names_are_ambiguous(tmp_path):
    labels = {"background": 0, "organ": 1, "tumour": 2}
    path = written(tmp_path / "checkpoint_final.pth", nnunet_document(seg_state(3), labels))
    with pytest.raises(CheckpointError, match="calls them background, organ, tumour") as caught:
        import_checkpoint([path], tmp_path / "m")
    assert "--labels lung,lung_tumor" in str(caught.value)
    model = import_checkpoint([path], tmp_path / "m", labels=("liver", "liver_tumor"))
    assert model.spec.channels == ("background", "liver", "liver_tumor")


@pytest.mark.parametrize("labels", [("lung",), ("lung", "lung"), ("lung", "liver", "kidney")])
def test_labels_must_be_as_many_as_the_classes(labels, tmp_path):
    path = written(tmp_path / "checkpoint_final.pth", nnunet_document(seg_state(3)))
    with pytest.raises(CheckpointError, match="must name 2 different labels"):
        import_checkpoint([path], tmp_path / "m", labels=labels)


def test_classes_that_contradict_the_paper_are_not_taken_for_its_25(tmp_path):
    shuffled = ["background", "liver", "lung", *(label.name for label in LABELS[2:])]
    labels = {name: value for value, name in enumerate(shuffled)}
    path = written(tmp_path / "checkpoint_final.pth", nnunet_document(seg_state(), labels))
    model = import_checkpoint([path], tmp_path / "m")
    assert model.spec.channels[:3] == ("background", "liver", "lung")
    labels.pop("kidney_stone")
    labels["something else"] = 25
    path = written(tmp_path / "checkpoint_final.pth", nnunet_document(seg_state(), labels))
    with pytest.raises(CheckpointError, match="--labels"):
        import_checkpoint([path], tmp_path / "m2")


def test_an_ignore_label_and_a_transposed_plan_are_understood(tmp_path):
    labels = {"background": 0, "lung": 1, "lung_tumor": 2, "ignore": 3}
    document = nnunet_document(
        seg_state(3),
        labels,
        transpose_forward=[2, 0, 1],
        configurations={
            "3d_fullres": {"spacing": [3.0, 1.0, 2.0], "patch_size": [64, 96, 128]},
        },
    )
    path = written(tmp_path / "checkpoint_final.pth", document)
    spec = import_checkpoint([path], tmp_path / "m").spec
    assert spec.channels == ("background", "lung", "lung_tumor")
    assert spec.axcodes == "LSP"
    assert (spec.spacing_mm, spec.patch_shape) == ((3.0, 1.0, 2.0), (64, 96, 128))


def test_files_that_were_turned_on_reading_have_other_axes(tmp_path):
    document = nnunet_document(seg_state(3), image_reader_writer="NibabelIOWithReorient")
    path = written(tmp_path / "checkpoint_final.pth", document)
    assert inspect_checkpoint(path).axcodes == "SAR"


def test_statistics_of_another_normalisation_are_not_used(tmp_path):
    document = nnunet_document(seg_state(3), {"background": 0, "lung": 1, "liver": 2})
    stage = document["init_args"]["plans"]["configurations"]["3d_fullres"]
    stage["normalization_schemes"] = ["ZScoreNormalization"]
    path = written(tmp_path / "checkpoint_final.pth", document)
    assert inspect_checkpoint(path).intensity is None


@pytest.mark.parametrize(("outputs", "shapes"), [(14, 5), (13, 4)])
def test_an_attribute_classifier_is_imported_without_its_unused_decoder(outputs, shapes, tmp_path):
    state = cls_state(outputs)
    document = {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "train_step": 20000,
        "best_acc": np.float64(0.851),
    }
    path = written(tmp_path / "best.tar", document)
    model = import_checkpoint([path], tmp_path / "m")
    assert model.spec.task == "attributes"
    assert [len(options) for options in model.spec.attributes.values()] == [shapes, 3, 2, 2, 2]
    assert list(model.spec.attributes) == [
        "shape",
        "density",
        "heterogeneity",
        "surface",
        "invasion",
    ]
    assert (model.spec.attributes["shape"][-1] == "") == (outputs == 14)
    assert model.spec.intensity == Segmental((-1000.0, -200.0, 200.0, 1000.0), (0.0, 0.2, 0.9, 1.0))
    assert (model.spec.axcodes, model.spec.patch_shape) == ("SAL", (96, 96, 96))
    (network,) = load_model(tmp_path / "m").networks(CPU)
    unused = ("conv_blocks_context.5.", "conv_blocks_localization.", "tu.", "seg_outputs.")
    assert_same_weights(network, state, unused)


def test_five_folds_of_a_screening_classifier_become_one_ensemble(tmp_path):
    states = [cls_state(2, classes=2, seed=fold) for fold in range(5)]
    paths = [
        written(tmp_path / f"fold{n}.tar", {"state_dict": state, "best_auc": 0.9})
        for n, state in enumerate(states)
    ]
    with pytest.raises(CheckpointError, match="--organs"):
        import_checkpoint(paths, tmp_path / "m")
    model = import_checkpoint(paths, tmp_path / "m", organs=("pancreas",))
    assert (model.spec.task, model.spec.organs) == ("screening", ("pancreas",))
    assert model.spec.patch_shape == (128, 128, 128)
    assert model.spec.margin_mm == 24.0
    networks = model.networks(CPU)
    assert len(networks) == 5
    for network, state in zip(networks, states, strict=True):
        assert torch.equal(network.head[4].weight, state["head.4.weight"].half().float())


def test_a_fold_of_another_width_is_named(tmp_path):
    other = official.random_state(official.unet_shapes((2, 4, 8, 16, 32, 32)))
    paths = [written(tmp_path / "a.pth", seg_state()), written(tmp_path / "b.pth", other)]
    with pytest.raises(CheckpointError, match=r"b\.pth: differs from a\.pth"):
        import_checkpoint(paths, tmp_path / "m", default_intensity=True)


def test_a_flat_file_of_the_classification_code_is_not_taken_for_a_segmentation(tmp_path):
    path = written(tmp_path / "PASTA_final.pth", cls_state(14, classes=14))
    found = inspect_checkpoint(path)
    assert found.task == "attributes"
    assert "probably untrained" in "\n".join(found.report())
    with pytest.raises(CheckpointError, match="probably untrained"):
        import_checkpoint([path], tmp_path / "m", task="segmentation", default_intensity=True)
    assert import_checkpoint([path], tmp_path / "m").spec.task == "attributes"


def test_a_file_of_unclear_purpose_needs_the_task(tmp_path):
    path = written(tmp_path / "PASTA_final.pth", cls_state(7, classes=3))
    with pytest.raises(CheckpointError, match="--task"):
        import_checkpoint([path], tmp_path / "m")
    with pytest.raises(CheckpointError, match="7 outputs, attributes wants 13 or 14"):
        import_checkpoint([path], tmp_path / "m", task="attributes")


def test_a_network_for_several_channels_is_refused_for_ct(tmp_path):
    path = written(tmp_path / "petct.pth", seg_state(in_channels=2))
    assert "takes 2 channels" in "\n".join(inspect_checkpoint(path).report())
    with pytest.raises(CheckpointError, match="takes 2 channels, a CT has one"):
        import_checkpoint([path], tmp_path / "m", default_intensity=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("tu.3.weight"), r"tensor tu\.3\.weight \(16, 8, 2, 2, 2\).* is missing"),
        (
            lambda s: s.update({"tu.3.weight": torch.zeros(1, 2)}),
            r"tu\.3\.weight has shape \(1, 2\), PastaUNet wants \(16, 8, 2, 2, 2\)",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), r"tensor extra \(1\) is not part of PastaUNet"),
        (lambda s: s["tu.0.weight"].fill_(math.inf), r"tu\.0\.weight holds values that are not"),
    ],
    ids=["missing", "shape", "extra", "infinite"],
)
def test_a_file_that_does_not_fit_is_refused_naming_the_tensor(change, sentence, tmp_path):
    state = seg_state()
    change(state)
    path = written(tmp_path / "PASTA_final.pth", state)
    with pytest.raises(CheckpointError, match=rf"PASTA_final\.pth: tensor.*{sentence[-20:]}"):
        import_checkpoint([path], tmp_path / "m", default_intensity=True)
    with pytest.raises(CheckpointError, match=sentence):
        import_checkpoint([path], tmp_path / "m", default_intensity=True)
    assert not (tmp_path / "m" / "spec.json").exists()


# ---- files that are no checkpoint ---------------------------------------------------------------


class Malicious:
    """Pickles into a call of os.mkdir."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    ("writer", "sentence"),
    [
        ("torch", r"posix\.mkdir, and loading that could run code"),
        ("old torch", r"posix\.mkdir, and loading that could run code"),
        ("pickle", "not a torch checkpoint"),
    ],
)
def test_code_in_a_file_is_never_run(writer, sentence, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    document = {"network_weights": seg_state(3), "logging": Malicious(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        written(path, document, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(CheckpointError, match=sentence):
        inspect_checkpoint(path)
    assert not trace.exists()


def test_a_pickled_class_is_named_with_the_way_out(tmp_path):
    document = {"network_weights": seg_state(3), "args": collections.UserDict(a=1)}
    path = written(tmp_path / "c.pth", document)
    with pytest.raises(CheckpointError, match=r"collections\.UserDict.*state_dict alone"):
        inspect_checkpoint(path)


def test_a_truncated_file_is_told(tmp_path):
    path = written(tmp_path / "c.pth", seg_state(3))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="truncated"):
        inspect_checkpoint(path)


def test_a_damaged_weight_is_noticed_by_its_checksum(tmp_path):
    path = written(tmp_path / "c.pth", seg_state(3))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>", "web page"),
        (b"hello, this is no checkpoint", "not a torch checkpoint"),
    ],
)
def test_other_files_are_told_apart(content, sentence, tmp_path):
    path = tmp_path / "PASTA_final.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        inspect_checkpoint(path)


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        inspect_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([torch.zeros(1)], "holds a list"),
        ({"model": {"a": torch.zeros(1)}}, "its keys are model"),
        ({}, "its keys are nothing"),
        ({"encoder.weight": torch.zeros(1)}, r"0\.conv\.weight is missing.*encoder\.weight"),
        ({"state_dict": {"a": 1}}, "entry a of the weights is int"),
        ({"module.a": torch.zeros(1), "a": torch.zeros(1)}, "a is there twice"),
    ],
)
def test_other_checkpoints_are_refused_with_what_was_found(document, sentence, tmp_path):
    path = written(tmp_path / "c.pth", document)
    with pytest.raises(CheckpointError, match=sentence):
        inspect_checkpoint(path)


@given(
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    st.floats(0, 1),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_damage_never_raises_anything_else(tmp_path, zipped, flips, kept):
    path = tmp_path / "c.pth"
    document = {"state_dict": {"a.b": torch.arange(9.0)}, "log": [np.float64(0.5), "x"]}
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    path.write_bytes(data[: max(1, int(kept * len(data)))])
    with pytest.raises(CheckpointError):
        inspect_checkpoint(path)


def test_every_message_names_the_file(tmp_path):
    path = written(tmp_path / "named.pth", {"model": {}})
    for document in itertools.chain([{"model": {}}], [seg_state(3)]):
        written(path, document)
        with pytest.raises(CheckpointError, match=r"named\.pth: "):
            import_checkpoint([path], tmp_path / "m")
