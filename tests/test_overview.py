"""The overview picture: right side up, right side left, mask where the CT is, no identifiers."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from pasta.errors import LabelError, OutputError
from pasta.geometry import Volume, reoriented
from pasta.labels import label_named
from pasta.overview import report_lines, write_overview
from pasta.report import CaseFacts, Finding, Report

SPACING_MM = (2.0, 2.0, 6.0)
SHAPE = (60, 50, 20)


def case(axcodes="LPS"):
    """Build a soft body with a liver tumour on the patient's right, front and top."""
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    voxels = np.full(SHAPE, -1000, dtype=np.int16)
    voxels[5:55, 5:45] = 40
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[8:30, 10:40, 6:18] = label_named("liver").value
    labels[10:18, 12:18, 13:17] = label_named("liver_tumor").value
    return tuple(reoriented(Volume(array, affine), axcodes) for array in (voxels, labels))


def picture(path):
    """Read the PNG as RGB in 0-1."""
    return imread(path)[..., :3]


def orange(image):
    """Find pixels of the colour of a liver tumour's outline."""
    return (image[..., 0] > 0.8) & (image[..., 1] < 0.45) & (image[..., 2] < 0.2)


@pytest.fixture
def screening():
    """Probabilities as the screening task documents them."""
    return {
        "organs": [
            {
                "organ": "liver", "title": "Liver", "sentence": "", "probability": 0.91,
                "folds": [0.88, 0.94], "spread": {"min": 0.88, "max": 0.94, "sd": 0.03},
            },
            {
                "organ": "kidney", "title": "Kidney", "sentence": "kidney: not in the scan.",
                "probability": None, "folds": [], "spread": None,
            },
        ]
    }  # fmt: skip


def test_right_of_the_patient_is_left_and_front_is_up(tmp_path):
    write_overview(*case(), None, None, tmp_path / "overview.png")
    image = picture(tmp_path / "overview.png")
    height, width = image.shape[:2]
    axial = orange(image)[: int(0.58 * height), : int(0.33 * width)]
    rows, columns = np.nonzero(axial)
    assert len(rows) > 50
    assert columns.mean() < 0.33 * width / 2
    coronal = orange(image)[: int(0.58 * height), int(0.34 * width) : int(0.66 * width)]
    assert np.nonzero(coronal)[1].mean() < 0.32 * width / 2
    sagittal = orange(image)[: int(0.58 * height), int(0.67 * width) :]
    assert np.nonzero(sagittal)[1].mean() < 0.33 * width / 2  # the front is on the left


@pytest.mark.parametrize("axcodes", ["RAS", "PIR"])
def test_picture_does_not_depend_on_the_order_of_the_axes(axcodes, tmp_path):
    write_overview(*case(), None, None, tmp_path / "lps.png")
    write_overview(*case(axcodes), None, None, tmp_path / "other.png")
    first, second = picture(tmp_path / "lps.png"), picture(tmp_path / "other.png")
    views = slice(
        int(0.06 * first.shape[0]), int(0.58 * first.shape[0])
    )  # the header says the grid
    np.testing.assert_allclose(first[views], second[views], atol=1e-3)


def test_voxels_keep_their_proportions(tmp_path):
    write_overview(*case(), None, None, tmp_path / "overview.png")
    image = picture(tmp_path / "overview.png")
    height, width = image.shape[:2]
    coronal = orange(image)[: int(0.58 * height), int(0.34 * width) : int(0.66 * width)]
    rows, columns = np.nonzero(coronal)
    across, up = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert across / up == pytest.approx((8 * SPACING_MM[0]) / (4 * SPACING_MM[2]), rel=0.12)


def test_probabilities_and_report_are_drawn(screening, tmp_path):
    report = {
        "report": Report(
            CaseFacts(SHAPE, SPACING_MM, "LPS"), Finding("Enhanced CT", source="measured")
        ).to_document()
    }
    write_overview(*case(), None, None, tmp_path / "bare.png")
    write_overview(*case(), screening, report, tmp_path / "full.png")
    bare, full = picture(tmp_path / "bare.png"), picture(tmp_path / "full.png")
    lower = slice(int(0.6 * bare.shape[0]), None)
    red = (full[lower, :, 0] > 0.75) & (full[lower, :, 2] < 0.5) & (full[lower, :, 1] < 0.5)
    assert red.sum() > 1000  # the bar of the liver
    assert np.abs(full[lower] - bare[lower]).max() > 0.5


def test_report_without_lesions_says_so():
    report = Report(CaseFacts(SHAPE, SPACING_MM, "LPS"), Finding("Enhanced CT", source="measured"))
    lines = report_lines({"report": report.to_document()})
    assert lines == [
        "Enhanced CT (measured).",
        "No lesion is marked in this scan. This does not exclude one.",
    ]


def test_empty_mask_is_shown_through_the_middle(tmp_path):
    volume, labelmap = case()
    empty = Volume(np.zeros_like(labelmap.voxels), labelmap.affine)
    write_overview(volume, empty, None, None, tmp_path / "overview.png")
    assert not orange(picture(tmp_path / "overview.png"))[:500, :].any()


def test_mask_on_another_grid_is_refused(tmp_path):
    volume, labelmap = case()
    shifted = Volume(labelmap.voxels, labelmap.affine + np.eye(4)[:, [3, 0, 1, 2]])
    with pytest.raises(LabelError, match="grid"):
        write_overview(volume, shifted, None, None, tmp_path / "overview.png")
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        write_overview(*case(), None, None, tmp_path / "missing" / "overview.png")
