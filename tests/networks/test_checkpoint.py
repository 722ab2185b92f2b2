"""Model folders: what is saved comes back, what does not fit is refused by name."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pasta.errors import CheckpointError
from pasta.networks.checkpoint import (
    ModelSet,
    build_network,
    find_models,
    load_model,
    save_model,
)
from pasta.spec import ModelSpec, Segmental, ZScore

CPU = torch.device("cpu")
SEGMENTATION = ModelSpec(
    name="tiny-seg",
    version="1",
    task="segmentation",
    title="Test",
    width=2,
    spacing_mm=(1.0, 1.0, 1.0),
    patch_shape=(32, 32, 64),
    intensity=ZScore((-1000.0, 1000.0), 0.0, 400.0),
    channels=("background", "lung", "lung_tumor"),
)
SCREENING = dataclasses.replace(
    SEGMENTATION,
    name="tiny-screening",
    task="screening",
    intensity=Segmental(),
    channels=(),
    organs=("liver", "kidney"),
)


def saved(folder: Path, spec: ModelSpec = SEGMENTATION, folds: int = 1, seed: int = 0):
    torch.manual_seed(seed)
    networks = [build_network(spec) for _ in range(folds)]
    return networks, save_model(networks, spec, folder)


def rewritten(folder: Path, change) -> None:
    """Change the tensors of the first fold and put the new hash into the specification."""
    document = json.loads((folder / "spec.json").read_text())
    path = folder / document["weights"][0]["file"]
    state = load_file(path)
    change(state)
    save_file(state, path)
    document["weights"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "spec.json").write_text(json.dumps(document))


@pytest.mark.parametrize("spec", [SEGMENTATION, SCREENING], ids=["unet", "classifier"])
def test_a_saved_ensemble_comes_back_in_half_precision(spec, tmp_path):
    networks, model = saved(tmp_path / "m", spec, folds=2)
    loaded = load_model(tmp_path / "m")
    assert loaded == model
    for before, after in zip(networks, loaded.networks(CPU), strict=True):
        assert not after.training
        for name, tensor in after.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, before.state_dict()[name].half().float())


def test_full_precision_is_kept_when_asked_for(tmp_path):
    network = build_network(SEGMENTATION)
    save_model([network], SEGMENTATION, tmp_path, half=False)
    (after,) = load_model(tmp_path).networks(CPU)
    assert all(torch.equal(after.state_dict()[n], t) for n, t in network.state_dict().items())


def test_provenance_names_the_bytes_on_disk(tmp_path):
    _, model = saved(tmp_path, folds=2)
    hashes = [
        hashlib.sha256((tmp_path / file.file).read_bytes()).hexdigest()
        for file in model.spec.weights
    ]
    assert model.provenance() == {
        "name": "tiny-seg",
        "version": "1",
        "task": "segmentation",
        "weights_sha256": hashes,
        "folds": 2,
    }


def test_a_flipped_bit_is_noticed_before_the_weights_are_used(tmp_path):
    _, model = saved(tmp_path)
    path = tmp_path / model.spec.weights[0].file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(tmp_path).networks(CPU)


def test_a_missing_weights_file_is_an_error_with_the_way_out(tmp_path):
    _, model = saved(tmp_path)
    (tmp_path / model.spec.weights[0].file).unlink()
    with pytest.raises(CheckpointError, match="pasta weights import"):
        load_model(tmp_path)


def test_a_specification_without_weights_is_refused(tmp_path):
    SEGMENTATION.save(tmp_path)
    with pytest.raises(CheckpointError, match="names no weights"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: s.pop("tu.0.weight"),
            r"tensor tu\.0\.weight \(32, 32, 2, 2, 2\) of PastaUNet is missing",
        ),
        (
            lambda s: s.update({"seg_outputs.4.weight": torch.zeros(4, 2, 1, 1, 1)}),
            r"tensor seg_outputs\.4\.weight has shape \(4, 2, 1, 1, 1\), "
            r"PastaUNet wants \(3, 2, 1, 1, 1\)",
        ),
        (
            lambda s: s.update({"head.0.bias": torch.zeros(5)}),
            r"tensor head\.0\.bias \(5\) is not part of PastaUNet",
        ),
        (
            lambda s: s["conv_blocks_context.0.blocks.0.conv.bias"].fill_(float("nan")),
            r"conv_blocks_context\.0\.blocks\.0\.conv\.bias holds values that are not finite",
        ),
        (
            lambda s: s.update({"tu.1.weight": s["tu.1.weight"].int()}),
            r"tu\.1\.weight is torch\.int32, expected floating point",
        ),
    ],
    ids=["missing", "shape", "extra", "nan", "integer"],
)
def test_the_first_wrong_tensor_is_named(change, sentence, tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(CheckpointError, match=sentence):
        load_model(tmp_path).networks(CPU)


def test_weights_of_another_task_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        save_model([build_network(SCREENING)], SEGMENTATION, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_too_large_for_half_precision_are_refused_and_the_old_model_stays(tmp_path):
    _, before = saved(tmp_path)
    network = build_network(SEGMENTATION)
    torch.nn.init.constant_(network.seg_outputs[4].weight, 1e6)
    with pytest.raises(CheckpointError, match=r"seg_outputs\.4\.weight holds values that are not"):
        save_model([network], SEGMENTATION, tmp_path)
    assert load_model(tmp_path) == before
    assert load_model(tmp_path).networks(CPU)


def test_saving_again_replaces_the_model_and_leaves_no_rest(tmp_path):
    saved(tmp_path, folds=3)
    _, model = saved(tmp_path, folds=1, seed=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"spec.json", model.spec.weights[0].file}


def test_wrappers_of_training_are_taken_off(tmp_path):
    network = build_network(SCREENING)
    wrapped = torch.nn.Module()
    wrapped.module = torch.nn.Module()
    wrapped.module._orig_mod = network
    save_model([wrapped], SCREENING, tmp_path)
    assert load_model(tmp_path).networks(CPU)


def test_models_are_found_by_their_purpose(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    saved(tmp_path / "b", SCREENING)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("PASTA_MODELS", str(tmp_path))
    models = find_models()
    assert models.segmentation.spec.name == "tiny-seg"
    assert {organ: m.spec.name for organ, m in models.screening.items()} == {
        "liver": "tiny-screening",
        "kidney": "tiny-screening",
    }
    assert models.attributes is None


def test_a_model_folder_itself_counts_as_one(tmp_path):
    saved(tmp_path / "a")
    rest = tmp_path / "a" / ".part-of-a-killed-save"
    rest.mkdir()
    SEGMENTATION.save(rest)
    assert find_models(tmp_path / "a").segmentation is not None


def test_without_packaged_weights_the_set_is_empty(tmp_path, monkeypatch):
    monkeypatch.delenv("PASTA_MODELS", raising=False)
    monkeypatch.setattr("pasta.networks.checkpoint.PACKAGED_MODELS", tmp_path / "weights")
    assert find_models() == ModelSet()


def test_two_models_for_one_organ_are_refused(tmp_path):
    saved(tmp_path / "a", SCREENING)
    saved(tmp_path / "b", dataclasses.replace(SCREENING, organs=("kidney",)))
    with pytest.raises(CheckpointError, match="a and b are both for screening of the kidney"):
        find_models(tmp_path)


@pytest.mark.parametrize("make", [True, False], ids=["empty", "absent"])
def test_a_named_folder_without_models_is_an_error(make, tmp_path):
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model folder|no such folder"):
        find_models(folder)


def test_weights_of_several_folds_have_one_hash():
    def model(name, *digests):
        files = [SimpleNamespace(sha256=digest) for digest in digests]
        return SimpleNamespace(spec=SimpleNamespace(name=name, weights=files))

    one, two = model("one", "a" * 64), model("two", "a" * 64, "b" * 64)
    found = ModelSet(segmentation=one, screening={"liver": two, "kidney": two})
    assert found.weights_sha256 == {
        "one": "a" * 64,
        # (yes a | head -64 | tr -d '\n'; echo; yes b | head -64 | tr -d '\n') | sha256sum
        "two": "5e9ae866add9a85d69c3481d059bb9f158a39e5670ba11f95112fc409630894e",
    }
