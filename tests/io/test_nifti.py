import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest

from pasta.errors import VolumeError
from pasta.io import read_volume

CASES = ["crlm_1004", "ts_example", "sts_037"]


def marked_mm(volume):
    index = np.unravel_index(np.argmax(volume.voxels), volume.voxels.shape)
    return volume.affine @ [*index, 1]


def save(image, path, **header):
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def patched(path, at, data):
    raw = bytearray(path.read_bytes())
    raw[at : at + len(data)] = data
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_real_ct_reads_as_nibabel_reads_it(real_data, case):
    path = real_data / "ct" / case / "ct.nii.gz"
    volume, image = read_volume(path), nib.load(path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, np.asarray(image.dataobj))
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-9)
    assert volume.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert volume.warnings == ()
    assert volume.acquisition.contrast is None


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("big_endian", [False, True])
def test_a_marked_voxel_lies_where_nibabel_puts_it(body, tmp_path, suffix, kind, big_endian):
    image = kind(body.voxels, body.affine)
    if big_endian:
        image = kind(body.voxels, body.affine, image.header.as_byteswapped(">"))
    path = tmp_path / f"ct{suffix}"
    nib.save(image, path)
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, body.voxels)
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.dtype.isnative
    np.testing.assert_allclose(marked_mm(volume), body.affine @ [5, 7, 3, 1], atol=1e-4)


def test_scaled_integers_become_hu_and_stay_whole(body, tmp_path):
    stored = (body.voxels.astype(np.int32) + 1024).astype(np.uint16)
    image = nib.Nifti1Image(stored, body.affine)
    image.header.set_slope_inter(1, -1024)
    # nibabel applies the scaling when it saves floats only; write the integers as they are
    path = tmp_path / "ct.nii"
    with path.open("wb") as file:
        image.header["vox_offset"] = 352
        image.header["magic"] = b"n+1"
        file.write(image.header.binaryblock + bytes(4) + stored.tobytes(order="F"))
    assert np.array_equal(nib.load(path).get_fdata(), body.voxels)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, body.voxels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_whole_values_of_any_type_become_int16(body, tmp_path, dtype):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels.astype(dtype), body.affine), path)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, body.voxels)


def test_fractions_stay_float32(body, tmp_path):
    hu = body.voxels + np.float32(0.25)
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, body.affine), path)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, hu)


def test_a_fourth_axis_of_one_is_no_series(body, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels[..., None], body.affine), path)
    assert read_volume(path).voxels.shape == body.voxels.shape


def test_the_sform_wins_and_a_different_qform_is_told(body, tmp_path):
    image = nib.Nifti1Image(body.voxels, body.affine)
    moved = body.affine.copy()
    moved[0, 3] += 30
    image.set_qform(moved, code=1)
    image.set_sform(body.affine, code=1)
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(volume.affine, body.affine, atol=1e-4)
    assert any("differ by 30.0 mm" in warning for warning in volume.warnings)


def test_the_qform_is_used_where_no_sform_is_set(body, tmp_path):
    image = nib.Nifti1Image(body.voxels, body.affine)
    image.set_qform(body.affine, code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(volume.affine, body.affine, atol=1e-4)
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / "ct.nii.gz").affine, atol=1e-9)
    assert volume.warnings == ()


def test_a_header_without_orientation_is_read_with_a_warning(body, tmp_path):
    image = nib.Nifti1Image(body.voxels, np.diag([0.8, 0.8, 2.5, 1]))
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    image.header.set_zooms((0.8, 0.8, 2.5))
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / "ct.nii.gz").affine, atol=1e-6)
    assert any("left and right may be exchanged" in warning for warning in volume.warnings)


def refused(path, *words):
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert str(path.parent) not in message
    for word in words:
        assert word in message
    return message


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    refused(tmp_path / "nothing.nii.gz", "no such file")


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "ct.nii.gz").touch()
    refused(tmp_path / "ct.nii.gz", "empty")


def test_an_unknown_suffix_lists_those_that_are_read(tmp_path):
    (tmp_path / "ct.jpg").write_bytes(b"\xff\xd8")
    refused(tmp_path / "ct.jpg", ".nii.gz", ".mha", "DICOM")


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_text_file_is_no_image(tmp_path, name):
    (tmp_path / name).write_bytes(b"dear colleague, " * 100)
    refused(tmp_path / name, "not a NIfTI image")


@pytest.mark.parametrize("left", [100, 348, 2000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_said_to_be_truncated(body, tmp_path, left, suffix):
    path = tmp_path / f"ct{suffix}"
    nib.save(nib.Nifti1Image(body.voxels, body.affine), path)
    path.write_bytes(path.read_bytes()[:left])
    refused(path, "truncated")


def test_damaged_gzip_data_are_never_taken_for_hu(body, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels, body.affine), path)
    size = path.stat().st_size
    for at in range(size // 3, size - 4, size // 9):
        broken = tmp_path / f"broken{at}.nii.gz"
        broken.write_bytes(path.read_bytes())
        patched(broken, at, bytes(b ^ 0x5A for b in broken.read_bytes()[at : at + 4]))
        refused(broken, "damaged")


def test_several_gzip_members_are_one_file(body, tmp_path):
    nib.save(nib.Nifti1Image(body.voxels, body.affine), tmp_path / "ct.nii")
    raw = (tmp_path / "ct.nii").read_bytes()
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + bytes(512))
    assert np.array_equal(read_volume(path).voxels, body.voxels)


def test_a_series_of_phases_is_refused(body, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([body.voxels] * 3, -1), body.affine), path)
    refused(path, "(20, 18, 12, 3)", "Save one phase per file")


@pytest.mark.parametrize("cut", [np.s_[:, :, 0], np.s_[:, :, :1]])
def test_one_slice_is_refused(body, tmp_path, cut):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels[cut], body.affine), path)
    refused(path, "expected a 3-D volume")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(body, tmp_path, bad):
    hu = body.voxels.astype(np.float32)
    hu.flat[[3, 500, 1000]] = bad
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, body.affine), path)
    refused(path, "3 of 4320 voxels are NaN or infinite")


def test_finite_values_that_overflow_a_sum_are_not_taken_for_nan(body, tmp_path):
    hu = body.voxels.astype(np.float64)
    hu[:4] = 1.7e308
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, body.affine), path)
    refused(path, "cannot be HU")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (2, [0, 0, 0], "singular"),
        (2, [0, -0.9, 0], "singular"),
        (1, [0, np.nan, 0], "not finite"),
        (2, [0, 0, 0.01], "0.01 mm"),
        (0, [120, 0, 0], "120"),
        (2, [0, 0.7, 2.5], "right angle"),
    ],
)
def test_an_affine_that_no_scanner_makes_is_refused(body, tmp_path, column, value, words):
    affine = np.diag([-0.8, -0.9, 2.5, 1])
    image = nib.Nifti1Image(body.voxels, affine)
    path = tmp_path / "ct.nii"
    nib.save(image, path)
    affine[:3, column] = value
    # NIfTI-1: qform_code and sform_code at byte 252, rows of the sform from byte 280
    patched(path, 252, np.array([0, 1], "<i2").tobytes())
    patched(path, 280, affine[:3].astype("<f4").tobytes())
    refused(path, words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda hu: (hu + 1024) / 4096, "0..1"),
        (lambda hu: (hu + 1024) // 17, "8-bit"),
        (lambda hu: hu * 0 + 40, "every voxel"),
        (lambda hu: hu / 700, "normalised"),
        (lambda hu: hu + 1024, "rescale intercept"),
        (lambda hu: hu * 100.0, "cannot be HU"),
        (lambda hu: hu * 4.0, "cannot be HU"),
    ],
)
def test_values_that_cannot_be_hu_are_refused(body, tmp_path, values, words):
    hu = np.asarray(values(body.voxels.astype(np.float32)), dtype=np.float32)
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, body.affine), path)
    refused(path, words)


@pytest.mark.parametrize("padding", [-2000, -2048, -3024, -32768])
def test_padding_becomes_air_with_a_warning(body, tmp_path, padding):
    hu = body.voxels.copy()
    hu[:3] = padding
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, body.affine), path)
    volume = read_volume(path)
    assert volume.voxels.dtype == np.int16
    assert (volume.voxels[:3] == -1024).all()
    assert np.array_equal(volume.voxels[3:], body.voxels[3:])
    assert any(f"padding value {padding}" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(-160, 240, "No voxel is below"), (-1024, 150, "No voxel is above")]
)
def test_doubtful_values_are_read_with_a_warning(body, tmp_path, low, high, words):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels.clip(low, high), body.affine), path)
    assert any(words in warning for warning in read_volume(path).warnings)


def test_thick_or_few_slices_are_told(body, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(body.voxels[:, :, :5], np.diag([0.8, 0.8, 7.5, 1])), path)
    warnings = read_volume(path).warnings
    assert any("7.5 mm" in warning for warning in warnings)
    assert any("only 5 slices" in warning for warning in warnings)


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_colours_and_complex_numbers_are_refused(body, tmp_path, dtype):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), dtype), body.affine), path)
    refused(path, "one number per voxel")


def test_a_header_that_promises_more_than_memory_is_refused(body, tmp_path):
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(body.voxels, body.affine), path)
    patched(path, 40, np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], "<i2").tobytes())
    refused(path)


@pytest.mark.parametrize(
    ("at", "number"), [(108, np.nan), (108, np.inf), (108, 1e30), (108, -1.0), (40, 1e9)]
)
def test_a_place_of_the_voxels_or_a_shape_that_cannot_be_is_refused(body, tmp_path, at, number):
    path = save(nib.Nifti1Image(body.voxels, body.affine), tmp_path / "ct.nii")
    patched(path, at, np.float32(number).tobytes())
    with pytest.raises(VolumeError):
        read_volume(path)


def test_quaternions_that_are_too_long_are_no_orientation(body, tmp_path):
    image = nib.Nifti1Image(body.voxels, body.affine)
    image.set_qform(body.affine, 1)
    path = save(image, tmp_path / "ct.nii")
    patched(path, 256, np.float32([8, 8, 8]).tobytes())
    np.testing.assert_allclose(read_volume(path).affine, body.affine, atol=1e-5)
