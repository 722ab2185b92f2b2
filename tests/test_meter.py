"""The meter on bodies of known shape, HU and edge, and on hand-drawn masks of real lesions."""

import itertools
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pasta.geometry import Volume, reoriented
from pasta.labels import label_named
from pasta.meter import RENDERED_SPHERICITY, Measurements, measured, sphericity_and_solidity
from pasta.neighbourhood import Scan
from pasta.report.attributes import (
    CLOSE,
    HETEROGENEOUS,
    HOMOGENEOUS,
    HYPERDENSE,
    HYPODENSE,
    ILL_DEFINED,
    IRREGULAR,
    ISODENSE,
    NOT_CLOSE,
    PUNCTATE,
    ROUND,
    WALL,
    WELL_DEFINED,
)

LIVER, KIDNEY = 2, 8
HOST_HU = 100.0


class Scene:
    """An organ, analytic lesions in it and noise, on any grid; coordinates in L, P, S mm."""

    def __init__(self, spacing=(1.0, 1.0, 1.0), extent=(76.0, 72.0, 80.0), noise=0.0, seed=0):
        shape = [round(e / s) for e, s in zip(extent, spacing, strict=True)]
        self.affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        axes = [
            (np.arange(n) + 0.5) * s - e / 2 for n, s, e in zip(shape, spacing, extent, strict=True)
        ]
        self.x, self.y, self.z = np.meshgrid(*axes, indexing="ij")
        rng = np.random.default_rng(seed)
        self.hu = np.full(shape, HOST_HU) + noise * rng.standard_normal(shape)
        self.labels = np.full(shape, LIVER, np.uint8)

    def ball(self, radius, centre=(0.0, 0.0, 0.0), axes=(1.0, 1.0, 1.0)):
        """Distance from the surface of an ellipsoid, negative inside; exact for a ball."""
        p = [(a - c) / s for a, c, s in zip((self.x, self.y, self.z), centre, axes, strict=True)]
        return np.sqrt(sum(q * q for q in p)) - radius

    def star(self, radius, depth, count=5):
        """Distance-like function of a body with arms."""
        r = np.sqrt(self.x**2 + self.y**2 + self.z**2) + 1e-9
        arms = np.cos(count * np.arctan2(self.y, self.x)) * (1 - (self.z / r) ** 2)
        return r - radius * (1 + depth * arms)

    def add(self, distance, delta_hu, value=12, width=0.5):
        """Blend a lesion in with a logistic edge."""
        share = 1 / (1 + np.exp(np.clip(distance / width, -50, 50)))
        self.hu += share * delta_hu
        self.labels[distance <= 0] = value
        return self

    def volumes(self):
        return Volume(self.hu.astype(np.float32), self.affine), Volume(self.labels, self.affine)

    def measure(self, name="liver_tumor", **options) -> Measurements:
        return measure(*self.volumes(), name, **options)


def measure(volume, labelmap, name, **options) -> Measurements:
    scan = Scan(volume, labelmap)
    mask = scan.labels == label_named(name).value
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return measured(scan, label_named(name), box, mask[box], **options)


def values(found: Measurements):
    return {name: item.value for name, item in found.attributes.items()}


def test_size_and_volume_of_a_ball():
    found = Scene().add(Scene().ball(12.0), -40).measure()
    np.testing.assert_allclose(found.size_mm, (24, 24, 24), atol=1.0)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.02)
    assert found.diameter_mm == pytest.approx(24, rel=0.01)


def test_size_is_feet_to_head_then_right_to_left_then_front_to_back():
    scene = Scene()
    found = scene.add(scene.ball(1.0, axes=(8.0, 12.0, 16.0)) * 8, -40).measure()
    np.testing.assert_allclose(found.size_mm, (32, 16, 24), atol=1.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (1.5, 1.5, 2.0)])
def test_plain_ball_in_the_liver_reads_as_such_on_any_grid(spacing):
    scene = Scene(spacing, noise=12.0)
    found = scene.add(scene.ball(14.0), -40).measure()
    assert values(found) == {
        "shape": ROUND,
        "density": HYPODENSE,
        "heterogeneity": HOMOGENEOUS,
        "surface": WELL_DEFINED,
        "invasion": NOT_CLOSE,
    }
    assert found.attributes["density"].numbers["delta_hu"] == pytest.approx(-40, abs=2)
    assert found.organ_overlap == {"liver": 1.0}


def test_sphericity_and_solidity_of_known_bodies():
    scene = Scene()
    psi, solidity = sphericity_and_solidity((scene.ball(15.0) < 0).astype(np.float32))
    assert psi == pytest.approx(1, abs=0.03)
    assert solidity == pytest.approx(1, abs=0.02)
    cube = np.zeros((40, 40, 40), np.float32)
    cube[8:32, 8:32, 8:32] = 1
    psi, solidity = sphericity_and_solidity(cube)
    assert psi == pytest.approx((np.pi / 6) ** (1 / 3), abs=0.04)  # 0.806; edges are rounded
    assert solidity == pytest.approx(1, abs=0.02)
    cube[20:, 20:, :] = 0  # an L: 3/4 of its square, its hull loses one triangle of 1/8
    _, solidity = sphericity_and_solidity(cube)
    assert solidity == pytest.approx(0.75 / 0.875, abs=0.02)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [((1, 1, 1), ROUND), ((0.8, 1.0, 1.25), ROUND), ((0.35, 0.6, 1.6), IRREGULAR)],
)
def test_ellipsoids_are_round_until_they_are_elongated(axes, shape):
    scene = Scene()
    found = scene.add(scene.ball(12.0, axes=axes), -40).measure()
    assert found.attributes["shape"].value == shape


def test_star_is_irregular():
    scene = Scene()
    found = scene.add(scene.star(14.0, 0.35), -40).measure()
    assert found.attributes["shape"].value == IRREGULAR
    assert found.attributes["shape"].numbers["solidity"] < 0.88


def test_drawn_masks_are_held_to_a_higher_sphericity():
    scene = Scene()
    scene.add(scene.ball(12.0, axes=(0.7, 1.0, 1.5)), -40)
    psi = scene.measure().attributes["shape"].numbers["sphericity"]
    assert 0.84 < psi < 0.93
    assert scene.measure().attributes["shape"].value == ROUND
    rendered = scene.measure(sphericity=RENDERED_SPHERICITY)
    assert rendered.attributes["shape"].value == IRREGULAR


@pytest.mark.parametrize(
    ("delta", "option"),
    [(-60, HYPODENSE), (-15, HYPODENSE), (-6, ISODENSE), (6, ISODENSE), (15, HYPERDENSE)],
)
def test_density_follows_the_offset_from_the_host(delta, option):
    scene = Scene(noise=10.0)
    found = scene.add(scene.ball(12.0), delta).measure().attributes["density"]
    assert found.value == option
    assert found.numbers["delta_hu"] == pytest.approx(delta, abs=1.5)


def test_another_lesion_nearby_does_not_enter_the_reference():
    scene = Scene()
    scene.add(scene.ball(10.0), -40).add(scene.ball(9.0, (22.0, 0, 0)), -90, value=21)
    found = scene.measure().attributes["density"]
    assert found.numbers["reference_hu"] == pytest.approx(HOST_HU, abs=1)


def textured(scene, radius, amplitude, scale=2.5, seed=1):
    noise = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal(scene.hu.shape), scale
    )
    inside = scene.ball(radius) <= 0
    scene.hu += np.where(inside, amplitude * noise / noise[inside].std(), 0)
    return scene


@pytest.mark.parametrize("noise", [5.0, 15.0, 25.0])
@pytest.mark.parametrize(("texture", "option"), [(0.0, HOMOGENEOUS), (15.0, HETEROGENEOUS)])
def test_texture_is_told_from_noise(noise, texture, option):
    scene = Scene(noise=noise)
    scene.add(scene.ball(14.0), -40)
    found = textured(scene, 14.0, texture).measure().attributes["heterogeneity"]
    assert found.value == option


@pytest.mark.parametrize("width", [1.0, 1.5, 2.0, 3.0])
def test_width_of_a_logistic_edge_is_found(width):
    scene = Scene(noise=10.0)
    found = scene.add(scene.ball(15.0), -60, width=width).measure().attributes["surface"]
    assert found.numbers["edge_width_mm"] == pytest.approx(width, rel=0.15)
    assert found.value == (WELL_DEFINED if width < 1.3 else ILL_DEFINED)


@pytest.mark.parametrize("thick_axis", [0, 1, 2])
def test_thick_slices_do_not_blur_the_edge(thick_axis):
    spacing = [0.8, 0.8, 0.8]
    spacing[thick_axis] = 5.0
    scene = Scene(tuple(spacing))
    found = scene.add(scene.ball(16.0), -60, width=0.6).measure().attributes["surface"]
    assert found.value == WELL_DEFINED


def exophytic(neighbour=None, gap=0.0):
    """A kidney tumour half out of the kidney, in fat; perhaps beside another organ."""
    scene = Scene()
    kidney = scene.x < 0
    scene.hu[~kidney] = -100
    scene.labels[:] = np.where(kidney, KIDNEY, 0)
    if neighbour is not None:
        near = scene.x > 12 + gap
        scene.hu[near] = 60
        scene.labels[near] = neighbour
    distance = scene.ball(12.0)
    scene.hu[distance <= 0] = 60
    scene.labels[distance <= 0] = 18
    return scene.measure("kidney_tumor").attributes


def test_exophytic_kidney_tumour_in_fat_is_not_invasive():
    found = exophytic()
    assert found["invasion"].value == NOT_CLOSE
    assert found["density"].value == HYPODENSE  # against the kidney, not the fat
    assert found["surface"].value == WELL_DEFINED


def test_tumour_pressed_against_another_organ_is_close():
    assert exophytic(LIVER, gap=-2.0)["invasion"].value == CLOSE


def test_fat_plane_keeps_the_distance():
    assert exophytic(LIVER, gap=4.0)["invasion"].value == NOT_CLOSE


def test_contact_with_tissue_without_a_label_is_said_to_be_uncertain():
    found = exophytic(0, gap=-2.0)["invasion"]
    assert found.value == CLOSE
    assert "does not name" in found.note


def colon(thickness_mm, length_mm, angle):
    """A colon with a lesion in its wall over an angle; the lumen is air."""
    scene = Scene(extent=(80.0, 80.0, 90.0))
    scene.hu[:] = -100
    radius = np.hypot(scene.x, scene.y)
    scene.labels[:] = np.where(radius < 22, 7, 0)
    scene.hu[radius < 22] = 60
    scene.hu[radius < 18] = -900
    wall = (radius < 22) & (radius > 22 - thickness_mm) & (np.abs(scene.z) < length_mm / 2)
    wall &= np.abs(np.arctan2(scene.y, scene.x)) < angle
    scene.hu[wall] = 70
    scene.labels[wall] = 17
    return scene


@pytest.mark.parametrize("angle", [np.pi, np.pi / 2])
def test_lesion_along_the_wall_of_the_colon_is_a_wall_thickening(angle):
    found = colon(10.0, 40.0, angle).measure("colorectal_cancer").attributes["shape"]
    assert found.value == WALL


def test_polyp_in_the_colon_is_no_wall_thickening():
    scene = colon(4.0, 0.0, 1.0)
    polyp = scene.ball(8.0, (12.0, 0.0, 0.0)) <= 0
    scene.hu[polyp] = 70
    scene.labels[polyp] = 17
    assert scene.measure("colorectal_cancer").attributes["shape"].value == ROUND


def test_stones_and_small_bright_lesions_are_punctate():
    scene = Scene()
    scene.labels[:] = KIDNEY
    found = scene.add(scene.ball(3.0), 500, value=25).measure("kidney_stone")
    assert found.attributes["shape"].value == PUNCTATE
    assert found.attributes["density"].value == HYPERDENSE
    scene = Scene()
    found = scene.add(scene.ball(3.0), 300).measure()
    assert found.attributes["shape"].value == PUNCTATE


def test_what_is_too_small_is_not_assessable():
    scene = Scene()
    found = scene.add(scene.ball(2.2), -40).measure()
    assert set(values(found).values()) <= {None, HYPODENSE}
    for name in ("shape", "heterogeneity", "surface", "invasion"):
        assert "smaller than" in found.attributes[name].note


def test_two_thick_slices_have_no_shape():
    scene = Scene((0.8, 0.8, 8.0))
    found = scene.add(scene.ball(9.0), -40).measure().attributes["shape"]
    assert found.value is None
    assert "voxels across" in found.note


def test_without_the_organ_around_it_only_size_and_shape_are_said():
    scene = Scene()
    scene.labels[:] = 0
    found = scene.add(scene.ball(12.0), -40).measure()
    assert found.attributes["shape"].value == ROUND
    for name in ("density", "surface", "invasion"):
        assert found.attributes[name].value is None
        assert "no liver labelled" in found.attributes[name].note
    assert found.organ_overlap == {}


def test_without_contrast_the_margin_is_not_assessable():
    scene = Scene(noise=5.0)
    found = scene.add(scene.ball(14.0), 4).measure().attributes["surface"]
    assert found.value is None
    assert "no contrast" in found.note


def test_three_thick_axes_have_no_margin():
    scene = Scene((3.0, 3.0, 3.0))
    found = scene.add(scene.ball(15.0), -60).measure().attributes["surface"]
    assert found.value is None
    assert "voxels" in found.note


def test_every_axis_order_and_flip_gives_the_same_numbers():
    scene = Scene((0.9, 1.1, 2.5), extent=(45.0, 44.0, 50.0), noise=8.0)
    scene.add(scene.ball(1.0, (3.0, -2.0, 4.0), (6.0, 8.0, 9.0)) * 7, -35)
    volume, labelmap = scene.volumes()
    expected = measure(volume, labelmap, "liver_tumor")
    codes = [
        "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
        for order in itertools.permutations(("LR", "PA", "SI"))
        for flips in itertools.product((0, 1), repeat=3)
    ]
    assert len(set(codes)) == 48
    for code in codes:
        turned = measure(reoriented(volume, code), reoriented(labelmap, code), "liver_tumor")
        assert turned == expected, code


def test_lesion_at_the_border_of_the_scan_is_measured():
    scene = Scene()
    found = scene.add(scene.ball(12.0, (-36.0, 0.0, 0.0)), -40).measure()
    assert found.attributes["density"].value == HYPODENSE
    assert found.size_mm[1] == pytest.approx(14.0, abs=1.0)


def test_large_lesion_is_measured_on_a_coarser_grid():
    scene = Scene((2.0, 2.0, 2.0), extent=(200.0, 200.0, 200.0), noise=8.0)
    found = scene.add(scene.ball(70.0), -40).measure()
    assert found.grid_mm > 1.3
    assert found.attributes["shape"].value == ROUND
    assert found.attributes["density"].numbers["delta_hu"] == pytest.approx(-40, abs=1.5)
    assert found.attributes["heterogeneity"].value == HOMOGENEOUS


def test_a_lesion_takes_a_fraction_of_a_second():
    scene = Scene(noise=8.0)
    scene.add(scene.ball(10.0), -40)
    start = time.thread_time()
    for _ in range(5):
        scene.measure()
    assert (time.thread_time() - start) / 5 < 0.4  # 0.08 s on an idle core


@pytest.fixture(scope="module")
def ircadb(real_data):
    """Real liver with seven tumours and a cyst, drawn by hand: CT, labelmap, masks by name."""
    folder = real_data / "ct" / "ircadb_01_NC-ND"
    if not folder.is_dir():
        pytest.skip("no 3D-IRCADb case in the data folder")
    image = nib.load(folder / "ct.nii.gz")
    names = ["liver", *(f"livertumor{n:02}" for n in range(1, 8)), "liverkyst"]
    masks = {n: np.asarray(nib.load(folder / "masks" / f"{n}.nii.gz").dataobj) > 0 for n in names}
    return Volume(np.asarray(image.dataobj), image.affine), masks


def ircadb_lesion(ircadb, name) -> Measurements:
    volume, masks = ircadb
    labels = np.where(masks["liver"], LIVER, 0).astype(np.uint8)
    value, title = (21, "liver_cyst") if name == "liverkyst" else (12, "liver_tumor")
    for other, mask in masks.items():
        if other not in ("liver", name):
            labels[mask] = 12 if value == 21 else 21  # out of the ring, not of this label
    labels[masks[name]] = value
    return measure(volume, Volume(labels, volume.affine), title)


@pytest.fixture(scope="module")
def ircadb_found(ircadb):
    return {name: ircadb_lesion(ircadb, name) for name in ircadb[1] if name != "liver"}


@pytest.mark.slow
def test_size_of_real_lesions_is_that_of_their_bounding_box(ircadb, ircadb_found):
    volume, masks = ircadb
    for name, found in ircadb_found.items():
        points = nib.affines.apply_affine(volume.affine, np.argwhere(masks[name]))
        right, front, up = np.ptp(points, axis=0) + np.abs(np.diag(volume.affine)[:3])
        np.testing.assert_allclose(found.size_mm, (up, right, front), atol=0.01)
        voxel_ml = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
        assert found.volume_ml == pytest.approx(masks[name].sum() * voxel_ml, rel=1e-6)


@pytest.mark.slow
def test_real_liver_cyst_is_hypodense_and_not_called_heterogeneous(ircadb_found):
    cyst = ircadb_found["liverkyst"].attributes
    assert cyst["density"].value == HYPODENSE
    assert cyst["heterogeneity"].value != HETEROGENEOUS
    assert cyst["heterogeneity"].note == "smaller than 12 mm"  # it is 5 mm


@pytest.mark.slow
def test_real_liver_metastases_are_darker_than_portal_venous_liver(ircadb_found):
    tumours = [found for name, found in ircadb_found.items() if name != "liverkyst"]
    hypodense = [found.attributes["density"].value == HYPODENSE for found in tumours]
    assert sum(hypodense) >= 6  # of seven; one is calcified and close to liver
    for found in tumours:
        numbers = found.attributes["density"].numbers
        assert 95 < numbers["reference_hu"] < 135  # liver 112 HU as the collection says


def test_real_gallbladder_is_a_homogeneous_hypodense_ball_of_water(real_data):
    """Bile is the largest plain fluid at hand: it must read like a cyst of the liver beside it."""
    folder = real_data / "ct" / "ts_example"
    image = nib.load(folder / "ct.nii.gz")
    organs = np.asarray(nib.load(folder / "organs.nii.gz").dataobj)
    labels = np.select([organs == 4, organs == 5], [21, 2], 0).astype(np.uint8)
    volume = Volume(np.asarray(image.dataobj), image.affine)
    found = measure(volume, Volume(labels, image.affine), "liver_cyst").attributes
    assert found["density"].value == HYPODENSE
    assert -10 < found["density"].numbers["lesion_hu"] < 30
    assert found["heterogeneity"].value == HOMOGENEOUS


@pytest.mark.parametrize("case", ["lung4d_113", "nsclcrg_r01_001"])
def test_real_lung_tumour_without_a_lung_mask_claims_no_margin(real_data, case):
    folder = real_data / "ct" / case
    image = nib.load(folder / "ct.nii.gz")
    mask = np.asarray(nib.load(folder / "lesions.nii.gz").dataobj) == 1
    volume = Volume(np.asarray(image.dataobj), image.affine)
    labels = Volume(np.where(mask, 11, 0).astype(np.uint8), image.affine)
    found = measure(volume, labels, "lung_tumor")
    points = nib.affines.apply_affine(image.affine, np.argwhere(mask))
    right, front, up = np.ptp(points, axis=0) + np.abs(np.diag(image.affine)[:3])
    np.testing.assert_allclose(found.size_mm, (up, right, front), atol=0.01)
    assert found.attributes["surface"].value is None
    assert found.attributes["invasion"].value is None
    density = found.attributes["density"]
    assert 20 < density.numbers["reference_hu"] < 75  # muscle
    assert -60 < density.numbers["lesion_hu"] < 80  # soft tissue, not the air around it
