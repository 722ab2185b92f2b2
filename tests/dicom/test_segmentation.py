import numpy as np
import pydicom
import pydicom_seg
import pytest
import SimpleITK as sitk  # noqa: N813

from pasta.dicom import read_source
from pasta.dicom.segmentation import read_segmentation, segmentation
from pasta.dicom.statements import statements_of
from pasta.errors import DicomError, LabelError
from pasta.geometry import Volume, reoriented
from pasta.io import read_volume
from pasta.labels import label_of

from .conftest import MODEL, drawn

ROW, COLUMN = np.array([0.8, 0.6, 0]), np.array([0.36, -0.48, 0.8])
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "feet first": ((1, 0, 0), (0, -1, 0)),
    "mirrored": ((-1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": (ROW, COLUMN),
}


def turned(series, row, column):
    """Turn the series in the patient, 2.5 mm between its slices."""
    normal = np.cross(row, column)
    for number, path in enumerate(sorted(series.glob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient = [float(x) for x in (*row, *column)]
        place = np.array([30.0, -20, 7]) + 2.5 * number * normal
        dataset.ImagePositionPatient = [round(float(x), 6) for x in place]
        dataset.save_as(path)


def read_apart(path, series):
    """Read a SEG with SimpleITK's and pydicom-seg's idea of DICOM; labels from the codes."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    ct = sitk.ReadImage(names)
    result = pydicom_seg.SegmentReader().read(pydicom.dcmread(path))
    merged = np.zeros(ct.GetSize(), np.uint8)
    for number, info in result.segment_infos.items():
        image = sitk.Cast(result.segment_image(number), sitk.sitkUInt8)
        placed = sitk.Resample(image, ct, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        region = info.get("AnatomicRegionSequence")
        codes = (
            info.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            (region[0].CodeValue if region else None),
        )
        values = [
            value
            for value in range(1, 26)
            if (label_of(value).type.value, getattr(label_of(value).region, "value", None)) == codes
        ]
        assert len(values) == 1
        merged[sitk.GetArrayFromImage(placed).T == 1] = values[0]
    return merged, ct


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_voxel_comes_back_with_its_label_by_another_reader(series, tmp_path, orientation):
    turned(series, *ORIENTATIONS[orientation])
    source = read_source(series)
    labelmap = drawn(source.grid)
    segmentation(labelmap, source).dataset.save_as(tmp_path / "seg.dcm", False)
    found, ct = read_apart(tmp_path / "seg.dcm", series)
    # SimpleITK sorts the slices by their position as we do
    at = ct.TransformIndexToPhysicalPoint((10, 12, 1))
    np.testing.assert_allclose(
        (source.grid.affine @ [10, 12, 1, 1])[:3] * (-1, -1, 1), at, atol=1e-3
    )
    assert np.array_equal(found, labelmap.voxels)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_comes_back_with_its_label(series, tmp_path, orientation):
    turned(series, *ORIENTATIONS[orientation])
    source = read_source(series)
    labelmap = drawn(source.grid)
    segmentation(labelmap, source).dataset.save_as(tmp_path / "seg.dcm", False)
    back = read_segmentation(tmp_path / "seg.dcm", read_volume(series).grid)
    assert np.array_equal(back.voxels, labelmap.voxels)


def test_a_labelmap_with_other_axes_gives_the_same_segmentation(series):
    source = read_source(series)
    labelmap = drawn(source.grid)
    expected = segmentation(labelmap, source).dataset
    found = segmentation(reoriented(labelmap, "SAR"), source).dataset
    assert found.PixelData == expected.PixelData
    assert found.SOPInstanceUID == expected.SOPInstanceUID


def test_each_frame_names_the_slice_that_it_lies_on(series):
    source = read_source(series)
    dataset = segmentation(drawn(source.grid), source).dataset
    places = {str(image.SOPInstanceUID): image.ImagePositionPatient for image in source.images}
    assert dataset.NumberOfFrames == len(dataset.PerFrameFunctionalGroupsSequence)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        image = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert [float(x) for x in position] == [float(x) for x in places[str(image)]]


def test_each_reported_lesion_is_a_segment_and_no_voxel_is_lost(series, report):
    source = read_source(series)
    lesions = statements_of(report).lesions
    made = segmentation(drawn(source.grid), source, lesions=lesions, models=[MODEL])
    titles = [item.SegmentLabel for item in made.dataset.SegmentSequence]
    assert titles == ["Liver", "Liver tumor 1", "Liver tumor 2", "Liver tumor", "Kidney stone 3"]
    tracked = [item.get("TrackingID") for item in made.dataset.SegmentSequence]
    assert tracked == [None, "PASTA-AID lesion 1", "PASTA-AID lesion 2", None, "PASTA-AID lesion 3"]
    first = made.dataset.SegmentSequence[1]
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    family = first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmFamilyCodeSequence[0]
    assert family.CodeMeaning == "Artificial Intelligence"
    assert made.of_lesion(lesions[1]).number == 3
    assert "AI, research use only" in made.dataset.SeriesDescription


def test_a_mask_says_whether_a_person_or_a_network_drew_it(series):
    source = read_source(series)
    labelmap = drawn(source.grid)
    kinds = {
        name: segmentation(labelmap, source, **given).dataset
        for name, given in {
            "AUTOMATIC": {"models": [MODEL]},
            "SEMIAUTOMATIC": {"models": [MODEL], "reader": "R1"},
            "MANUAL": {"reader": "R1"},
        }.items()
    }
    for name, dataset in kinds.items():
        assert {item.SegmentAlgorithmType for item in dataset.SegmentSequence} == {name}
    assert str(kinds["MANUAL"].ContentCreatorName) == "R1^Reader"
    assert len({dataset.SOPInstanceUID for dataset in kinds.values()}) == 3


def test_the_patient_of_the_series_is_kept_whatever_the_character_set(series, tmp_path):
    source = read_source(series)
    segmentation(drawn(source.grid), source).dataset.save_as(tmp_path / "seg.dcm", False)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(found.PatientName) == "MÜSTERMANN^Jörg"
    assert found.PatientID == "SECRET-4711"
    assert found.StudyInstanceUID == source.images[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == source.images[0].FrameOfReferenceUID


def test_a_labelmap_of_another_grid_is_refused(series):
    source = read_source(series)
    labelmap = drawn(source.grid)
    shifted = source.grid.affine.copy()
    shifted[2, 3] += 1
    with pytest.raises(LabelError, match="series that the labelmap was made from"):
        segmentation(Volume(labelmap.voxels, shifted), source)
    with pytest.raises(LabelError, match="is empty"):
        segmentation(Volume(labelmap.voxels * 0, source.grid.affine), source)


def test_a_segmentation_of_another_series_is_refused_by_the_reader(series, tmp_path):
    source = read_source(series)
    segmentation(drawn(source.grid), source).dataset.save_as(tmp_path / "seg.dcm", False)
    turned(series, *ORIENTATIONS["coronal"])
    with pytest.raises(DicomError, match="does not lie on the voxels"):
        read_segmentation(tmp_path / "seg.dcm", read_volume(series).grid)
    with pytest.raises(DicomError, match="BINARY"):
        read_segmentation(next(series.glob("*.dcm")), source.grid)


def test_a_whole_real_series_goes_out_and_back(real_data, tmp_path):
    folder = real_data / "dicom" / "sts_044" / "ct"
    source = read_source(folder)
    voxels = np.zeros(source.grid.shape, np.uint8, order="F")
    ct = read_volume(folder)
    voxels[ct.voxels > 200] = 10
    voxels[60:90, 100:120, 20:30] = 20
    segmentation(Volume(voxels, source.grid.affine), source).dataset.save_as(
        tmp_path / "seg.dcm", False
    )
    assert np.array_equal(read_segmentation(tmp_path / "seg.dcm", source.grid).voxels, voxels)


def test_a_series_of_a_sloppy_archive_is_enough(series, tmp_path):
    for path in series.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for name in (
            "AccessionNumber",
            "StudyID",
            "PatientBirthDate",
            "StudyTime",
            "SliceThickness",
        ):
            if name in dataset:
                delattr(dataset, name)
        dataset.save_as(path)
    source = read_source(series)
    labelmap = drawn(source.grid)
    segmentation(labelmap, source).dataset.save_as(tmp_path / "seg.dcm", False)
    assert np.array_equal(
        read_segmentation(tmp_path / "seg.dcm", source.grid).voxels, labelmap.voxels
    )


def test_a_series_that_nothing_can_refer_to_is_refused(series):
    for path in series.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    with pytest.raises(DicomError, match="slice 1 has no FrameOfReferenceUID"):
        read_source(series)
