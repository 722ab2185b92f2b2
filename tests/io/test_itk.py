import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from pasta.errors import VolumeError
from pasta.geometry import Volume
from pasta.io import read_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_itk(volume):
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def refused(path, *words):
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path.name}: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_a_marked_voxel_lies_where_simpleitk_puts_it(body, tmp_path, name, compressed, dtype):
    path = tmp_path / name
    image = as_itk(Volume(body.voxels.astype(dtype), body.affine))
    sitk.WriteImage(image, str(path), compressed)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, body.voxels)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(volume.voxels), volume.voxels.shape))
    assert at == (5, 7, 3)
    lps = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(at)
    np.testing.assert_allclose((volume.affine @ [*at, 1])[:3] * (-1, -1, 1), lps, atol=1e-6)
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_the_space_of_an_nrrd_turns_its_axes(body, tmp_path, space, signs):
    path = tmp_path / "ct.nrrd"
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 20 18 12\n"
        "space directions: (0.8,0,0) (0,0.9,0) (0,0,2.5)\nkinds: domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (10,20,30)\n\n"
    )
    path.write_bytes(header.encode() + body.voxels.tobytes(order="F"))
    volume = read_volume(path)
    point = (volume.affine @ [5, 7, 3, 1])[:3]
    np.testing.assert_allclose(point, np.multiply(signs, (14, 26.3, 37.5)))
    by_itk = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((5, 7, 3))
    np.testing.assert_allclose(point * (-1, -1, 1), by_itk)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_an_image_without_orientation_is_read_with_a_warning(body, tmp_path, name):
    header = {
        "ct.nrrd": "NRRD0004\ntype: short\ndimension: 3\nsizes: 20 18 12\nspacings: 0.8 0.9 2.5\n"
        "endian: little\nencoding: raw\n\n",
        "ct.mha": "NDims = 3\nDimSize = 20 18 12\nElementSpacing = 0.8 0.9 2.5\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    }[name]
    path = tmp_path / name
    path.write_bytes(header.encode() + body.voxels.tobytes(order="F"))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.grid.spacing_mm, (0.8, 0.9, 2.5))
    assert any("orientation" in warning for warning in volume.warnings)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_file_is_said_to_be_truncated(body, tmp_path, name, compressed):
    path = tmp_path / name
    sitk.WriteImage(as_itk(body), str(path), compressed)
    data = path.read_bytes()
    for left in (60, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:left])
        with pytest.raises(VolumeError):
            read_volume(path)
    refused(path, "truncated")


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_damaged_voxels_that_itk_would_take_are_refused(body, tmp_path, name):
    path = tmp_path / name
    sitk.WriteImage(as_itk(body), str(path), True)
    data = bytearray(path.read_bytes())
    data[-400:-350] = bytes(50)
    path.write_bytes(data)
    refused(path, "damaged")


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd"])
def test_a_text_file_is_no_image(tmp_path, name):
    (tmp_path / name).write_bytes(b"dear colleague\n" * 100)
    refused(tmp_path / name, "not a")


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_series_of_volumes_and_vectors_are_refused(body, tmp_path, name):
    image = as_itk(body)
    path = tmp_path / name
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))
    refused(path, "Save one phase per file")
    sitk.WriteImage(sitk.JoinSeries([image]), str(path))
    assert read_volume(path).voxels.shape == body.voxels.shape
    sitk.WriteImage(sitk.Compose(image, image), str(path))
    refused(path, "one number per voxel")


@pytest.mark.parametrize("bad", ["(0,0,0)", "(0,1,0)", "(0,0,nan)", "(0,0,0.001)"])
def test_a_geometry_that_no_scanner_makes_is_refused(body, tmp_path, bad):
    path = tmp_path / "ct.nrrd"
    straight = Volume(body.voxels, LPS @ np.diag([1.0, 1.0, 3.0, 1.0]))
    sitk.WriteImage(as_itk(straight), str(path))
    path.write_bytes(path.read_bytes().replace(b"(0,0,3)", bad.encode()))
    refused(path)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../ct.raw", "LIST", "a b%02d.raw 1 3 1", "", "c\0t.raw"]
)
def test_a_header_cannot_point_to_other_files_of_the_disk(body, tmp_path, target):
    path = tmp_path / "ct.mhd"
    sitk.WriteImage(as_itk(body), str(path))
    path.write_text(path.read_text().replace("ct.raw", target))
    refused(path, "same folder")
    path = tmp_path / "ct.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 20 18 12\nencoding: raw\n"
        + f"data file: {target}\n\n".encode()
    )
    refused(path, "another file")


def test_the_hash_of_a_mhd_takes_in_its_voxels(body, tmp_path):
    path = tmp_path / "ct.mhd"
    sitk.WriteImage(as_itk(body), str(path))
    first = read_volume(path).sha256
    raw = bytearray((tmp_path / "ct.raw").read_bytes())
    raw[0] ^= 1
    (tmp_path / "ct.raw").write_bytes(raw)
    assert read_volume(path).sha256 != first
    (tmp_path / "ct.raw").unlink()
    with pytest.raises(VolumeError, match=r"ct\.raw: no such file"):
        read_volume(path)
