import copy
import logging
import re
import shutil
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless, generate_uid

from pasta.errors import VolumeError
from pasta.io import find_volumes, is_dicom_folder, read_volume

UID = re.compile(r"\d+\.\d+\.\d+\.\d+")


def refused(folder, *words):
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder.name}: ")
    for word in words:
        assert word in message
    # neither UIDs nor names of patients, of slice files or of folders above
    assert not UID.search(message)
    assert "MUSTERMANN" not in message
    assert "CRLM" not in message
    assert str(folder.parent) not in message


def by_position(folder):
    slices = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(slices, key=lambda item: item.ImagePositionPatient[2])


def test_a_real_series_is_what_its_nifti_twin_holds(real_data):
    volume = read_volume(real_data / "dicom" / "crlm_1004")
    twin = nib.load(real_data / "ct" / "crlm_1004" / "ct.nii.gz")
    start = np.linalg.inv(volume.affine) @ twin.affine[:, 3]
    first = np.rint(start[:3]).astype(int)
    np.testing.assert_allclose(start[:3], first, atol=1e-3)
    np.testing.assert_allclose(volume.affine[:3, :3], twin.affine[:3, :3], atol=1e-5)
    part = volume.voxels[tuple(slice(a, a + n) for a, n in zip(first, twin.shape, strict=True))]
    assert part.shape == twin.shape
    assert np.array_equal(part, np.asarray(twin.dataobj))
    assert volume.voxels.dtype == np.int16


@pytest.mark.parametrize("case", ["crlm_1004", "sts_044/ct"])
def test_a_real_series_reads_as_simpleitk_reads_it(real_data, case):
    folder = real_data / "dicom" / case
    volume = read_volume(folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    hu = sitk.GetArrayFromImage(image).T
    assert np.array_equal(volume.voxels, np.where(hu < -1100, -1024, hu))
    for at in [(0, 0, 0), (17, 100, 9), (200, 30, 40)]:
        lps = image.TransformIndexToPhysicalPoint(at)
        found = (volume.affine @ [*at, 1])[:3] * (-1, -1, 1)
        np.testing.assert_allclose(found, lps, atol=1e-3)


def test_what_the_tags_say_of_the_scan_is_kept(real_data):
    crlm = read_volume(real_data / "dicom" / "crlm_1004")
    assert crlm.acquisition.contrast is True
    assert crlm.acquisition.contrast_source == "ContrastBolusAgent (0018,0010)"
    assert crlm.acquisition.slice_thickness_mm == 5
    assert crlm.acquisition.kernel == "STANDARD"
    assert any("padding value -3024" in warning for warning in crlm.warnings)
    sts = read_volume(real_data / "dicom" / "sts_044" / "ct")
    assert sts.acquisition.contrast is None
    assert sts.warnings == ()


def test_the_series_is_found_beside_a_structure_set(real_data, tmp_path):
    sts = real_data / "dicom" / "sts_044"
    alone = read_volume(sts / "ct")
    assert read_volume(sts).sha256 == alone.sha256
    flat = tmp_path / "flat"
    shutil.copytree(sts / "ct", flat)
    for path in (sts / "rtstruct").iterdir():
        shutil.copy(path, flat / f"0_{path.name}")
    (flat / "notes.txt").write_text("not an image")
    assert np.array_equal(read_volume(flat).voxels, alone.voxels)
    refused(sts / "rtstruct", "no CT image", "1 RTSTRUCT")


def test_order_and_names_of_files_change_nothing(series, tmp_path):
    expected = read_volume(series)
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for number, path in enumerate(sorted(series.iterdir(), reverse=True)):
        shutil.copy(path, shuffled / f"IM{(number * 7) % 10}")
    found = read_volume(shuffled)
    assert np.array_equal(found.voxels, expected.voxels)
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert found.sha256 == expected.sha256


def test_the_hash_changes_with_one_byte(series, change):
    before = read_volume(series).sha256

    def brighten(number, dataset):
        if number == 4:
            dataset.PixelData = b"\1" + dataset.PixelData[1:]

    change(brighten)
    assert read_volume(series).sha256 != before


def test_feet_first_and_oblique_series_lie_where_simpleitk_puts_them(series, change):
    row, column = np.array([0.8, 0.6, 0]), np.array([0.6 * 0.6, -0.8 * 0.6, 0.8])
    normal = np.cross(row, column)

    def turn(number, dataset):
        dataset.ImageOrientationPatient = [*row, *column]
        dataset.ImagePositionPatient = list(np.array([30, -20, 7]) + 2.5 * number * normal)
        dataset.PixelSpacing = [0.9, 0.6]

    change(turn)
    volume = read_volume(series)
    names = [str(path) for path in sorted(series.iterdir())]
    image = sitk.ReadImage(names)
    for at in [(0, 0, 0), (80, 10, 7)]:
        found = (volume.affine @ [*at, 1])[:3] * (-1, -1, 1)
        np.testing.assert_allclose(found, image.TransformIndexToPhysicalPoint(at), atol=1e-3)
    np.testing.assert_allclose(volume.grid.spacing_mm, (0.6, 0.9, 2.5))


def test_a_missing_slice_is_told_with_its_place(series, change):
    change(lambda number, dataset: number != 5)
    refused(series, "1 slice(s) missing", "10.00 mm", "5.00 mm", "slices 4 and 5")


def test_two_missing_slices_are_counted(series, change):
    change(lambda number, dataset: number not in {3, 4})
    refused(series, "2 slice(s) missing")


def test_a_slice_given_twice_is_told(series):
    first = sorted(series.iterdir())[3]
    shutil.copy(first, series / "again.dcm")
    refused(series, "1 of 11 slices lie where another one lies")


def test_irregular_spacing_is_no_missing_slice(series, change):
    def squeeze(number, dataset):
        dataset.ImagePositionPatient[2] = -100 - 5 * number - (2 if number > 4 else 0)

    change(squeeze)
    refused(series, "irregular slice spacing", "5.00 to 7.00 mm")


def test_rounded_positions_are_regular(series, change):
    def rounded(number, dataset):
        dataset.ImagePositionPatient[2] = round(-100 + 0.625 * number, 1)

    change(rounded)
    assert read_volume(series).grid.spacing_mm[2] == pytest.approx(0.625, abs=0.01)


def test_gantry_tilt_is_told_with_its_angle(series, change):
    angle = np.deg2rad(12)

    def tilt(number, dataset):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, np.cos(angle), np.sin(angle)]

    change(tilt)
    refused(series, "12.0 degrees", "gantry tilt")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"Rows": 48, "Columns": 192}, "several sizes"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "several orientations"),
        ({"PixelSpacing": [0.7, 0.7]}, "several pixel spacings"),
        ({"RescaleIntercept": -1000}, "rescale"),
        ({"ImagePositionPatient": None}, "no position"),
        ({"PixelSpacing": None}, "pixel spacing"),
        ({"PixelData": b"\0" * 1000}, "slice 6"),
        ({"SamplesPerPixel": 3}, "colour"),
    ],
)
def test_one_slice_of_another_kind_is_told(series, change, edit, words):
    def other(number, dataset):
        if number == 4:  # the files of this series run from head to feet: the sixth from below
            for name, value in edit.items():
                setattr(dataset, name, value)

    change(other)
    refused(series, words)


def test_two_series_are_counted_and_none_is_guessed(series, change, tmp_path):
    uid = generate_uid()

    def split(number, dataset):
        if number % 3 == 0:
            dataset.SeriesInstanceUID = uid

    change(split)
    refused(series, "holds 2 CT series", "of 6, 4 images")


def test_a_localiser_and_a_report_page_beside_the_series_are_passed_over(series):
    expected = read_volume(series)
    page = pydicom.dcmread(sorted(series.iterdir())[0])
    page.SeriesInstanceUID = generate_uid()
    page.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    page.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    page.save_as(series / "scout_1.dcm")
    page.save_as(series / "scout_2.dcm")
    page = copy.deepcopy(page)
    page.ImageType = ["DERIVED", "SECONDARY"]
    page.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    page.save_as(series / "dose.dcm")
    assert np.array_equal(read_volume(series).voxels, expected.voxels)


def test_other_modalities_are_named(series, change):
    def as_mr(number, dataset):
        dataset.Modality = "MR"

    change(as_mr)
    refused(series, "no CT image", "10 MR")
    assert not is_dicom_folder(series)


def test_a_folder_without_dicom_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("nothing")
    refused(tmp_path, "no DICOM file inside")


def test_a_single_slice_is_no_series(series, change):
    change(lambda number, dataset: number == 0)
    refused(series, "single slice")


def test_enhanced_multi_frame_ct_is_told(series, change):
    def enhance(number, dataset):
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        dataset.NumberOfFrames = 10

    change(enhance)
    refused(series, "multi-frame")


def test_missing_rescale_tags_are_told_from_the_values(series, change):
    def strip(number, dataset):
        raw = dataset.pixel_array.clip(0)
        dataset.PixelData = raw.astype("<i2").tobytes()
        del dataset.RescaleSlope
        del dataset.RescaleIntercept

    change(strip)
    refused(series, "rescale intercept")


@pytest.mark.parametrize("how", ["rle", "jpeg2000", "big endian", "unsigned"])
def test_other_transfer_syntaxes_give_the_same_hu(series, how, tmp_path):
    expected = read_volume(series)
    for path in sorted(series.iterdir()):
        dataset = pydicom.dcmread(path)
        raw = dataset.pixel_array
        if how == "rle":
            dataset.compress(RLELossless, generate_instance_uid=False)
        elif how == "jpeg2000":
            # GDCM encodes one slice; its frame is put into the dataset of the series
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.UseCompressionOn()
            writer.SetCompressor("JPEG2000")
            writer.SetFileName(str(tmp_path / "one.dcm"))
            writer.Execute(sitk.GetImageFromArray(raw[None]))
            packed = pydicom.dcmread(tmp_path / "one.dcm")
            assert packed.file_meta.TransferSyntaxUID == JPEG2000Lossless
            dataset.PixelData = packed.PixelData
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        elif how == "big endian":
            dataset.PixelData = raw.astype(">i2").tobytes()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset.is_little_endian = False
            dataset.remove_private_tags()
        else:
            shifted = (raw.astype(np.int32) + 2000).clip(0).astype("<u2")
            dataset.PixelData = shifted.tobytes()
            dataset.PixelRepresentation = 0
            dataset.RescaleIntercept = -3024
            dataset.remove_private_tags()
            for name in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue"):
                if name in dataset:
                    del dataset[name]
        dataset.save_as(path)
    found = read_volume(series)
    assert found.voxels.dtype == np.int16
    assert np.array_equal(found.voxels, expected.voxels)
    np.testing.assert_allclose(found.affine, expected.affine)


@pytest.mark.parametrize(("number", "name"), [(b"100", "MPEG2 Main Profile"), (b"201", "unknown")])
def test_a_syntax_that_cannot_be_decoded_is_named(series, change, number, name):
    def garble(_, dataset):
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"

    change(garble)
    for path in series.iterdir():
        path.write_bytes(path.read_bytes().replace(b"10008.1.2.4.100", b"10008.1.2.4." + number))
    refused(series, "slice 1 cannot be decoded", name, "uncompressed")


@pytest.mark.parametrize(
    ("tags", "contrast", "source"),
    [
        ({}, None, ""),
        ({"ContrastBolusAgent": ""}, None, ""),
        ({"ContrastBolusAgent": "APPLIED"}, True, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "Omnipaque 350"}, True, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "NONE"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "No"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "WITHOUT CONTRAST"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "NC"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "w/o"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "non-contrast"}, False, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusAgent": "Novolizer"}, True, "ContrastBolusAgent (0018,0010)"),
        ({"ContrastBolusRoute": "IV"}, True, "ContrastBolusRoute (0018,1040)"),
        ({"ContrastBolusRoute": "NONE"}, False, "ContrastBolusRoute (0018,1040)"),
        ({"ContrastBolusAgent": "Gastrografin", "ContrastBolusRoute": "Oral"}, None, ""),
        ({"ContrastBolusAgent": "X", "ContrastBolusRoute": "Oral & IV"}, True,
         "ContrastBolusAgent (0018,0010)"),
    ],
)  # fmt: skip
def test_contrast_is_read_from_the_tags(series, change, tags, contrast, source):
    def relabel(number, dataset):
        for name in ("ContrastBolusAgent", "ContrastBolusRoute"):
            if name in dataset:
                del dataset[name]
        for name, value in tags.items():
            setattr(dataset, name, value)
        return number < 3

    change(relabel)
    acquisition = read_volume(series).acquisition
    assert (acquisition.contrast, acquisition.contrast_source) == (contrast, source)


def test_reading_tells_nobody_who_the_patient_is(series, change, caplog, capfd):
    def name(number, dataset):
        dataset.PatientName = "MUSTERMANN^ERIKA"
        dataset.PatientBirthDate = "not a date MUSTERMANN"
        dataset.ConvolutionKernel = "B30f MUSTERMANN ERIKA 1.2.3.4.5"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(name)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        volume = read_volume(series)
    captured = capfd.readouterr()
    text = caplog.text + captured.out + captured.err + "".join(str(w.message) for w in said)
    assert "ERIKA" not in text + repr(volume.acquisition) + repr(volume.warnings)


def test_volumes_of_a_study_folder_are_listed(real_data, series, tmp_path, labelmap):
    from pasta.io import write_labelmap

    study = series.parent
    assert find_volumes(series) == [series]
    for name in ("labels", ".hidden", "deep/er"):
        (study / name).mkdir(parents=True)
        shutil.copy(real_data / "ct" / "ts_example" / "ct.nii.gz", study / name / "ct.nii.gz")
    write_labelmap(labelmap, study / "organs.nii.gz")
    write_labelmap(labelmap, study / "x.seg.nrrd")
    (study / "broken.mha").touch()
    (study / "notes.txt").touch()
    assert find_volumes(study) == sorted(
        [study / "broken.mha", study / "deep" / "er" / "ct.nii.gz", series]
    )
    cases = find_volumes(real_data / "ct")
    assert {path.name for path in cases} == {"ct.nii.gz"}
    assert [path.name for path in find_volumes(real_data / "dicom")] == ["crlm_1004", "ct"]
