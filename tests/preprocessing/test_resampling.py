import dataclasses

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pasta.geometry import Volume, reoriented
from pasta.preprocessing.resampling import (
    axis_weights,
    labelmap_to_model_grid,
    resampled,
    to_model_grid,
)
from pasta.spec import ModelSpec, ZScore

SPEC = ModelSpec(
    name="test",
    version="1",
    task="segmentation",
    title="test",
    width=8,
    spacing_mm=(1.0, 1.0, 1.0),
    patch_shape=(32, 32, 64),
    intensity=ZScore((-1000.0, 4000.0), 0.0, 1.0),
    channels=("background", "liver"),
)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def ct_crop(real_data):
    """Crop of a real CT of 0.797 x 0.797 x 5 mm."""
    image = nib.load(real_data / "ct" / "crlm_1004" / "ct.nii.gz")
    start = np.array([150, 120, 8])
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    voxels = np.asarray(image.dataobj)[150:250, 120:210, 8:32]
    return Volume(voxels, affine)


def as_itk(volume):
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T, dtype=np.float32))
    place(image, volume.affine)
    return image


def place(image, affine):
    affine = LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "PIR", "SAL", "ILA"])
@pytest.mark.parametrize("tilted", [False, True])
def test_a_real_ct_on_the_model_grid_is_what_simpleitk_makes_of_it(ct_crop, axcodes, tilted):
    affine = ct_crop.affine.copy()
    if tilted:
        affine[:3, :3] = (
            Rotation.from_euler("xyz", (9, -12, 20), degrees=True).as_matrix() @ (affine[:3, :3])
        )
    volume = reoriented(Volume(ct_crop.voxels, affine), axcodes)
    found, plan = to_model_grid(volume, SPEC)
    assert found.shape == plan.model.shape
    assert found.is_contiguous()
    reference = sitk.Image(plan.model.shape, sitk.sitkFloat32)
    place(reference, plan.model.affine)
    by_itk = sitk.Resample(as_itk(volume), reference, sitk.Transform(), sitk.sitkLinear, -9999.0)
    wanted = sitk.GetArrayFromImage(by_itk).T
    inside = wanted > -5000  # the last voxels may lie outside the field of view; ITK leaves them
    assert inside.mean() > 0.97
    assert np.abs(found.numpy() - wanted)[inside].max() < 0.1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 2.0), (0.5, 0.6, 0.7)])
def test_a_real_ct_on_the_model_grid_is_what_scipy_makes_of_it(ct_crop, spacing):
    found, plan = to_model_grid(ct_crop, dataclasses.replace(SPEC, spacing_mm=spacing))
    index = np.stack(np.meshgrid(*map(np.arange, plan.model.shape), indexing="ij"))
    to_voxels = np.linalg.inv(plan.turned.affine) @ plan.model.affine
    at = np.tensordot(to_voxels[:3, :3], index, 1) + to_voxels[:3, 3][:, None, None, None]
    turned = reoriented(ct_crop, "LPS").voxels.astype(np.float32)
    wanted = ndimage.map_coordinates(turned, at, order=1, mode="nearest")
    assert np.abs(found.numpy() - wanted).max() < 0.1


def test_what_is_brighter_than_the_window_does_not_bleed_into_its_neighbours(ct_crop):
    narrow = dataclasses.replace(SPEC, intensity=ZScore((-1000.0, 600.0), 0.0, 1.0))
    metal = ct_crop.voxels.copy()
    metal[20, 20, 5] = 3000
    found, _ = to_model_grid(dataclasses.replace(ct_crop, voxels=metal), narrow)
    cut, _ = to_model_grid(dataclasses.replace(ct_crop, voxels=np.minimum(metal, 600)), SPEC)
    torch.testing.assert_close(found, cut)
    assert metal[20, 20, 5] == 3000  # the caller's voxels stay


def test_both_ways_of_interpolating_agree(ct_crop):
    found, plan = to_model_grid(ct_crop, SPEC)
    turned = torch.from_numpy(
        np.ascontiguousarray(reoriented(ct_crop, "LPS").voxels, dtype=np.float32)
    )
    by_matrix = resampled(turned, plan.forward_weights(antialias=False))
    assert (found - by_matrix).abs().max() < 0.1


def test_antialiasing_averages_where_voxels_grow(ct_crop):
    coarse = dataclasses.replace(SPEC, spacing_mm=(4.0, 4.0, 5.0))
    noise = np.random.default_rng(3).normal(0, 50, ct_crop.voxels.shape).astype(np.float32)
    volume = dataclasses.replace(ct_crop, voxels=noise)
    plain, _ = to_model_grid(volume, coarse)
    averaged, plan = to_model_grid(volume, dataclasses.replace(coarse, antialias=True))
    assert averaged.shape == plan.model.shape
    assert averaged.std() < 0.4 * plain.std()  # 5 x 5 voxels in a triangle: about 0.27
    flat = dataclasses.replace(ct_crop, voxels=np.full(ct_crop.voxels.shape, 40, np.int16))
    kept, _ = to_model_grid(flat, dataclasses.replace(coarse, antialias=True))
    np.testing.assert_allclose(kept, 40, atol=1e-3)


angles = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(max_examples=25, deadline=None)
@given(angles, st.sampled_from([(0.9, 0.9, 0.9), (0.7, 0.7, 5.0), (2.5, 0.8, 0.8)]))
def test_a_ball_in_a_ct_keeps_its_centre_on_the_model_grid(angle, spacing):
    centre, radius = np.array([31.4, -15.9, 260.5]), 18.0
    shape = tuple(int(np.ceil(60 / s)) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * spacing
    affine[:3, 3] = centre - 0.7 - affine[:3, :3] @ ((np.array(shape) - 1) / 2)

    def places(affine, shape):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        return index @ affine[:3, :3].T + affine[:3, 3]

    away = np.linalg.norm(places(affine, shape) - centre, axis=-1)
    hu = (-1000 + 1060 / (1 + np.exp((away - radius) / 2))).astype(np.float32)
    found, plan = to_model_grid(Volume(hu, affine), SPEC)
    weight = found.numpy() + 1000
    seen = (places(plan.model.affine, plan.model.shape) * weight[..., None]).sum((0, 1, 2))
    assert np.linalg.norm(seen / weight.sum() - centre) <= 0.25
    assert plan.model.axcodes == "LPS"


@pytest.mark.parametrize("axcodes", ["LPS", "ASR", "IRP"])
def test_a_labelmap_falls_on_the_voxels_of_its_ct(ct_crop, axcodes):
    turned = reoriented(ct_crop, axcodes)
    bone = Volume((turned.voxels > 200).astype(np.uint8) * 10, turned.affine)
    hu, plan = to_model_grid(turned, SPEC)
    labels = labelmap_to_model_grid(bone, SPEC)
    assert labels.shape == plan.model.shape
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 10}
    soft, _ = to_model_grid(dataclasses.replace(bone, voxels=bone.voxels.astype(np.float32)), SPEC)
    # the nearest of eight voxels has at least an eighth of the weight
    assert not labels[(soft < 1.2).numpy()].any()
    assert (labels[(soft > 8.8).numpy()] == 10).all()
    assert hu[torch.from_numpy(labels == 10)].mean() > 200


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 8), st.booleans())
def test_weights_of_an_axis_sum_to_one_and_keep_constants(source, target, step, antialias):
    weights = axis_weights(source, target, step, antialias=antialias)
    assert weights.shape == (target, source)
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(dim=1), 1, atol=1e-6)


def test_weights_of_an_axis_by_hand():
    # two voxels of 2 mm to four of 1 mm: centres at -0.25, 0.25, 0.75, 1.25 source voxels
    wanted = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(axis_weights(2, 4, 0.5), wanted)
    # and back with averaging: centre at 0.5 and 2.5; the triangle is 2 voxels wide
    found = axis_weights(4, 2, 2.0, antialias=True)
    np.testing.assert_allclose(found[0], [3 / 7, 3 / 7, 1 / 7, 0], atol=1e-6)
