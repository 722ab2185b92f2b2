import numpy as np
import pytest
import torch

from pasta.preprocessing.intensity import normalized
from pasta.spec import Segmental, ZScore


def test_zscore_clips_then_standardises_as_nnunet():
    # by hand: (clip(hu, -996, 1000) - 80) / 141
    hu = torch.tensor([-2000.0, -996.0, 80.0, 221.0, 3000.0])
    found = normalized(hu, ZScore(clip_hu=(-996.0, 1000.0), mean_hu=80.0, std_hu=141.0))
    wanted = [-7.631206, -7.631206, 0.0, 1.0, 6.524823]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_segmental_map_follows_its_published_corner_points():
    # by hand: [-1000, -200, 200, 1000] -> [0, 0.2, 0.9, 1], straight lines between, constant beyond
    hu = torch.tensor([-3000, -1000, -600, -200, -100, 0, 100, 200, 600, 1000, 3000])
    found = normalized(hu, Segmental())
    wanted = [0, 0, 0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 0.95, 1, 1]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("intensity", [Segmental(), ZScore((-900.0, 900.0), 10.0, 300.0)])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_normalising_gives_float32_and_leaves_its_input_alone(intensity, dtype):
    hu = torch.arange(-1024, 1024, dtype=dtype).reshape(2, 32, 32)
    kept = hu.clone()
    found = normalized(hu, intensity)
    assert found.dtype == torch.float32
    assert found.shape == hu.shape
    assert torch.equal(hu, kept)
    assert np.all(np.diff(found.flatten()) >= 0)
