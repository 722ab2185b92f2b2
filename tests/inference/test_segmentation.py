"""The engine on networks whose answer is known voxel by voxel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from pasta.errors import CancelledError, LabelError
from pasta.geometry import Volume, reoriented
from pasta.inference.segmentation import Segmenter
from pasta.inference.windows import (
    WindowedNetwork,
    body_box,
    fewest_starts,
    nearest_parts,
    window_starts,
)
from pasta.spec import ModelSpec, ZScore

AXCODES = [
    "".join(codes)
    for order in itertools.permutations(("RL", "AP", "IS"))
    for codes in itertools.product(*order)
]


class DensityNetwork(nn.Module):
    """Answers liver (channel 1) above 300 HU, kidney (channel 2) above 700 HU, else background."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hu = x * 1000  # the specification below divides by 1000
        return torch.cat((-(hu - 300) / 100, (hu - 300) / 100, (hu - 300) / 100 * 2 - 4), dim=1)


@dataclass
class KnownModel:
    """Stands where a model folder would: networks in memory instead of files."""

    spec: ModelSpec
    network: nn.Module

    def networks(self, device: torch.device) -> list[nn.Module]:
        return [self.network]


def known_model(spacing_mm=(2.0, 2.0, 2.0), patch_shape=(32, 32, 64)) -> KnownModel:
    spec = ModelSpec(
        name="density",
        version="1",
        task="segmentation",
        title="threshold",
        width=1,
        spacing_mm=spacing_mm,
        patch_shape=patch_shape,
        intensity=ZScore((-1000, 3000), 0.0, 1000.0),
        channels=("background", "liver", "kidney"),
    )
    return KnownModel(spec, DensityNetwork())


def body_with_balls(spacing_mm, extent_mm=(140, 120, 160)):
    """A soft-tissue body in air with a ball of 500 HU and one of 1000 HU; smooth edges."""
    shape = tuple(round(e / s) for e, s in zip(extent_mm, spacing_mm, strict=True))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-60, -80, 30)
    centres = [
        (np.arange(n) + 0.5) * s - e / 2
        for n, s, e in zip(shape, spacing_mm, extent_mm, strict=True)
    ]
    x, y, z = np.meshgrid(*centres, indexing="ij")
    hu = np.where((x / 62) ** 2 + (y / 52) ** 2 < 1, 40.0, -1000.0)

    def ball(cx, cy, cz, radius):
        return np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - radius

    first, second = ball(-25, 5, -30, 18), ball(25, -10, 35, 14)
    hu += 460 / (1 + np.exp(first / 1.0)) + 960 / (1 + np.exp(second / 1.0))
    return Volume(hu.astype(np.float32), affine)


def expected(volume: Volume) -> np.ndarray:
    """The network's rule applied on the native grid."""
    hu = volume.voxels
    return np.select([hu > 700, hu > 300], [8, 2], 0).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("axcodes", AXCODES)
def test_labels_lie_on_the_native_grid_in_every_orientation(axcodes):
    volume = reoriented(body_with_balls((1.6, 1.6, 2.5)), axcodes)
    labelmap = Segmenter(known_model(), device="cpu").segment(volume)
    np.testing.assert_array_equal(labelmap.affine, volume.affine)
    assert labelmap.voxels.dtype == np.uint8
    for value in (2, 8):
        assert dice(labelmap.voxels == value, expected(volume) == value) > 0.93


def test_every_orientation_gives_the_same_labels():
    volume = body_with_balls((2.0, 2.0, 2.0))
    segmenter = Segmenter(known_model(), device="cpu")
    reference = segmenter.segment(volume).voxels
    for axcodes in AXCODES[::7]:
        turned = segmenter.segment(reoriented(volume, axcodes))
        back = reoriented(turned, "RAS").voxels
        assert (back == reference).mean() > 0.9999


def test_strips_and_half_precision_do_not_change_the_labels():
    volume = body_with_balls((1.6, 1.6, 2.5))
    whole = Segmenter(known_model(), device="cpu").segment(volume).voxels
    strips = Segmenter(known_model(), device="cpu", memory_budget_bytes=400_000)
    assert len(strips._strips(slice(0, 70), slice(0, 60), 400_000)[1]) > 2
    assert (strips.segment(volume).voxels == whole).mean() > 0.9999


def test_overlap_and_mirroring_agree_on_a_voxelwise_network():
    volume = body_with_balls((2.0, 2.0, 2.0))
    reference = Segmenter(known_model(), device="cpu", overlap=0.0).segment(volume).voxels
    for options in ({"overlap": 0.5}, {"overlap": 0.25, "mirror": True}):
        labels = Segmenter(known_model(), device="cpu", **options).segment(volume).voxels
        assert (labels == reference).mean() > 0.9999


def windows_of(model, volume, organs=None):
    """Labels, and how many windows the network saw."""
    model.network.calls = 0
    return Segmenter(model, device="cpu").segment(volume, organs).voxels, model.network.calls


def test_organ_restricted_labels_equal_the_whole_and_cost_fewer_windows():
    volume = body_with_balls((2.0, 2.0, 2.0), extent_mm=(300, 260, 400))
    volume.voxels[...] = np.maximum(volume.voxels, volume.voxels[::-1])  # one on either side
    model = known_model()
    whole, all_windows = windows_of(model, volume)
    only, windows = windows_of(model, volume, ["kidney"])
    np.testing.assert_array_equal(only, np.where(whole == 8, 8, 0))
    assert 0 < windows < all_windows / 2, (windows, all_windows)


def test_windows_of_the_quick_pass_are_not_run_again():
    volume = body_with_balls((2.0, 2.0, 2.0))
    model = known_model()
    _, all_windows = windows_of(model, volume)
    # one kidney only: in doubt, so the whole scan; without memory for scores the pass comes on top
    _, windows = windows_of(model, volume, ["kidney"])
    segmenter = Segmenter(model, device="cpu", memory_budget_bytes=400_000)
    model.network.calls = 0
    segmenter.segment(volume, ["kidney"])
    assert all_windows <= windows < model.network.calls


@pytest.mark.parametrize("first_overlooked", [0, 60])
def test_what_the_quick_pass_overlooks_is_not_hidden(first_overlooked):
    """All of an organ, or the rest of one that goes on: labelled as by the whole scan."""
    model = known_model()
    volume = body_with_balls((2.0, 2.0, 2.0), extent_mm=(140, 120, 400))
    i, j, _ = np.indices(volume.voxels.shape)
    volume.voxels[(abs(i - 20) < 6) & (abs(j - 30) < 6)] = 500
    whole, _ = windows_of(model, volume)
    segmenter = Segmenter(model, device="cpu")
    quick = segmenter._fine.located

    def overlooking(*arguments):
        found, known = quick(*arguments)
        found[first_overlooked:] = -1
        return found, known

    segmenter._fine.located = overlooking
    only = segmenter.segment(volume, ["liver"]).voxels
    np.testing.assert_array_equal(only, np.where(whole == 2, 2, 0))


def test_the_quick_pass_leaves_no_gap():
    for extent, length in itertools.product(range(20, 400, 7), (32, 64)):
        starts = window_starts(extent, length, 0.5)
        chosen = fewest_starts(starts, length)
        seen = np.zeros(extent, bool)
        for start in chosen:
            seen[max(0, start) : start + length] = True
        assert seen.all()
        assert set(chosen) <= set(starts)
        parts = nearest_parts(starts, length, extent)
        assert [i for part in parts for i in range(extent)[part]] == list(range(extent))
        for start, part in zip(starts, parts, strict=True):
            assert start <= part.start
            assert part.stop <= start + length


def test_an_organ_the_model_does_not_label_is_refused_by_name():
    with pytest.raises(LabelError, match="does not label the bladder"):
        Segmenter(known_model(), device="cpu").segment(body_with_balls((4, 4, 4)), ["bladder"])
    with pytest.raises(LabelError, match="unknown organ 'spleen'"):
        Segmenter(known_model(), device="cpu").segment(body_with_balls((4, 4, 4)), ["spleen"])


def test_air_alone_gives_an_empty_labelmap_without_running_the_network():
    model = known_model()
    volume = Volume(np.full((40, 30, 20), -1000, np.int16), np.diag([2.0, 2, 2, 1]))
    assert not Segmenter(model, device="cpu").segment(volume).voxels.any()
    assert model.network.calls == 0


def test_windows_in_air_are_skipped():
    hu = torch.full((200, 64, 64), -1000.0)
    hu[10:50, 8:56, 8:56] = 40.0
    hu[150:190, 8:56, 8:56] = 40.0
    mask, _ = body_box(hu, 2.0)
    network = WindowedNetwork([DensityNetwork()], known_model().spec, torch.device("cpu"))
    starts = {start[0] for start in network.plan(mask)}
    assert not any(70 < start < 100 for start in starts)
    assert min(starts) <= 10
    assert max(starts) + 32 >= 190


def test_a_scan_smaller_than_the_patch_is_padded_with_air():
    volume = body_with_balls((2.0, 2.0, 2.0))
    small = Volume(volume.voxels[10:36, 20:50, 10:30].copy(), volume.affine)
    labels = Segmenter(known_model(patch_shape=(64, 64, 64)), device="cpu").segment(small)
    assert labels.voxels.shape == small.voxels.shape
    assert dice(labels.voxels > 0, expected(small) > 0) > 0.95


def test_progress_rises_to_one_and_can_cancel():
    seen: list[tuple[float, str]] = []
    segmenter = Segmenter(known_model(), device="cpu")
    volume = body_with_balls((2.0, 2.0, 2.0))
    segmenter.segment(volume, progress=lambda fraction, stage: seen.append((fraction, stage)))
    fractions = [fraction for fraction, stage in seen if stage == "segment"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    def stop(fraction: float, stage: str) -> None:
        if stage == "segment" and fraction > 0.3:
            raise CancelledError

    with pytest.raises(CancelledError):
        segmenter.segment(volume, progress=stop)


@pytest.mark.parametrize(
    ("extent", "length", "overlap", "starts"),
    [
        (100, 64, 0.5, [0, 18, 36]),  # 36 voxels left, strides of at most 32: two more
        (128, 64, 0.5, [0, 32, 64]),
        (128, 64, 0.0, [0, 64]),
        (20, 64, 0.5, [-22]),
        (64, 64, 0.5, [0]),
    ],
)
def test_windows_are_placed_as_by_hand(extent, length, overlap, starts):
    assert window_starts(extent, length, overlap) == starts


class RunnerUpNetwork(nn.Module):
    """Liver above 300 HU, kidney above 700 HU; below, kidney is the second best everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = torch.sign(x - 0.3) * 10
        return torch.cat((-dense, dense, torch.where(x > 0.7, 20.0, 3.0)), dim=1)


def test_a_class_that_is_second_everywhere_does_not_line_the_borders():
    model = known_model(spacing_mm=(4.0, 4.0, 4.0))
    model.network = RunnerUpNetwork()
    volume = body_with_balls((1.0, 1.0, 2.5))
    labels = Segmenter(model, device="cpu").segment(volume).voxels
    kidney_ball = volume.voxels > 700
    near = np.zeros_like(kidney_ball)
    low, high = (np.array(f(np.nonzero(kidney_ball), axis=1)) for f in (np.min, np.max))
    near[tuple(slice(a - 6, b + 7) for a, b in zip(low, high, strict=True))] = True
    assert (labels == 8)[kidney_ball].mean() > 0.7
    assert not (labels == 8)[~near].any()
