"""A turned network computes the same function."""

import pytest
import torch

from pasta.networks.turning import upright
from pasta.networks.unet import PastaUNet
from pasta.spec import ModelSpec, ZScore


@pytest.mark.parametrize(("axcodes", "turned"), [("LPS", "SPL"), ("SPL", "SPL"), ("ASL", "SAL")])
def test_a_turned_network_answers_as_the_original_on_turned_arrays(axcodes, turned):
    torch.manual_seed(0)
    network = PastaUNet(2, 2).eval()
    spec = ModelSpec(
        name="n",
        version="1",
        task="segmentation",
        title="t",
        width=2,
        spacing_mm=(1.0, 2.0, 3.0),
        patch_shape=(64, 32, 96),
        intensity=ZScore((-1, 1), 0, 1),
        axcodes=axcodes,
        channels=("background", "liver"),
    )
    x = torch.randn(1, 1, 64, 32, 96)
    with torch.inference_mode():
        expected = network(x)
        order = [axcodes.index(code) for code in turned]
        found = upright([network], spec)
        answer = network(x.permute(0, 1, *(2 + axis for axis in order)))
    assert found.axcodes == turned
    assert found.patch_shape == tuple(spec.patch_shape[axis] for axis in order)
    assert found.spacing_mm == tuple(spec.spacing_mm[axis] for axis in order)
    torch.testing.assert_close(
        answer, expected.permute(0, 1, *(2 + axis for axis in order)), atol=1e-4, rtol=1e-4
    )
