"""Masks: from the server's labelmap to segments and back."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pasta.geometry import Volume
from pasta.inference.reporting import MIN_MM3, MIN_VOXELS, lesion_components
from pasta.labels import label_named
from pasta.neighbourhood import Scan

slicer = pytest.importorskip("slicer", reason="needs slicer-core")


@pytest.fixture
def masks(host):
    from PASTAAidGui.Masks import Masks

    return Masks()


def exported(masks, node, volume, folder):
    path = folder / "out.nii.gz"
    flat = masks.toLabelmap(node, volume, path)
    image = nib.load(path)
    return flat, np.asarray(image.dataobj), image.affine


def test_labelmap_comes_back_bit_identical_on_the_grid_of_the_ct(case, masks, load, tmp_path):
    volume = load(case.ct)
    node = masks.fromLabelmap(case.mask, volume, None)
    flat, values, affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(values, case.values)
    assert values.dtype == np.uint8
    np.testing.assert_allclose(affine, nib.load(case.ct).affine, atol=1e-4)
    assert flat.lostVoxels == {}
    assert flat.overlapVoxels == 0


@pytest.mark.parametrize("other", ["RAS", "PIR"])
def test_labelmap_stored_with_turned_axes_is_turned_to_the_ct(
    other, lps, original, masks, load, tmp_path, turn
):
    turn(nib.Nifti1Image(lps.values, lps.affine), other, tmp_path / "turned.nii.gz")
    volume = load(lps.ct)
    node = masks.fromLabelmap(tmp_path / "turned.nii.gz", volume, None)
    _flat, values, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(values, lps.values)


def test_labelmap_of_another_place_is_refused(lps, masks, load, tmp_path):
    shifted = lps.affine.copy()
    shifted[0, 3] += 1.5
    nib.save(nib.Nifti1Image(lps.values, shifted), tmp_path / "shifted.nii.gz")
    with pytest.raises(ValueError, match=r"resample it to the CT"):
        masks.fromLabelmap(tmp_path / "shifted.nii.gz", load(lps.ct), None)


def test_unknown_values_and_unreadable_files_are_refused(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    nib.save(nib.Nifti1Image(lps.values + 30, lps.affine), tmp_path / "high.nii.gz")
    with pytest.raises(ValueError, match="expected 0-25"):
        masks.fromLabelmap(tmp_path / "high.nii.gz", volume, None)
    (tmp_path / "torn.nii.gz").write_bytes(lps.mask.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        masks.fromLabelmap(tmp_path / "torn.nii.gz", volume, None)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_lesions_are_numbered_sized_and_placed_as_in_the_report(case, masks, load):
    affine = nib.load(case.ct).affine
    ct = Volume(np.zeros(case.values.shape, np.int16), affine)
    scan = Scan(ct, Volume(case.values, affine))
    components, _specks = lesion_components(scan)
    assert len(components) > 10
    volume = load(case.ct)
    lesions = masks.lesions(masks.fromLabelmap(case.mask, volume, None))
    assert [lesion.number for lesion in lesions] == list(range(1, len(components) + 1))
    for lesion, component in zip(lesions, components, strict=True):
        assert lesion.label == component.label.name
        assert lesion.voxels == int(component.mask.sum())
        start = [part.start for part in component.box]
        centre = scan.grid.affine @ [*(np.argwhere(component.mask).mean(axis=0) + start), 1]
        np.testing.assert_allclose(lesion.centreRas, centre[:3], atol=1e-3)
        i, j, k = np.array(component.mask.shape) * scan.grid.spacing_mm
        np.testing.assert_allclose(lesion.sizeMm, (k, i, j), atol=1e-3)
        assert lesion.volumeMl == pytest.approx(lesion.voxels * ct.grid.voxel_volume_mm3 / 1000)


def test_the_rule_for_specks_is_that_of_the_report(host):
    from PASTAAidGui import Masks

    assert (Masks.MIN_VOXELS, Masks.MIN_MM3) == (MIN_VOXELS, MIN_MM3)


def test_specks_are_no_lesions_and_yet_not_lost(lps, masks, load, tmp_path):
    values = lps.values.copy()
    value = label_named("liver_cyst").value
    empty = np.argwhere(values[2:-2:6, 2:-2:6, 2:-2:6] == 0)[:40] * 6 + 2
    values[tuple(empty.T)] = value  # 27 mm3 and one voxel each
    nib.save(nib.Nifti1Image(values, lps.affine), tmp_path / "specks.nii.gz")
    volume = load(lps.ct)
    node = masks.fromLabelmap(tmp_path / "specks.nii.gz", volume, None)
    assert "liver_cyst" not in {lesion.label for lesion in masks.lesions(node)}
    assert node.GetSegmentation().GetSegment("liver_cyst_specks").GetName() == (
        "Liver cyst, specks (AI)"
    )
    _flat, out, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(out, values)


def test_large_sparse_zones_are_separated_as_scipy_does(masks):
    from PASTAAidGui import Voxels
    from scipy import ndimage

    rng = np.random.default_rng(3)
    mask = ndimage.binary_dilation(rng.random((211, 190, 131)) < 0.0007)
    mask[5:200, 7, 9] = True
    assert mask.size > Voxels.COARSE_FROM
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    found = Voxels.connectedParts(mask)
    assert len(found) == count
    painted = np.zeros(mask.shape, np.int32)
    for number, (box, part) in enumerate(found, start=1):
        painted[box][part] = number
    pairs = np.unique(np.stack([parts[mask], painted[mask]]), axis=1)
    assert pairs.shape[1] == count  # one of ours to each of theirs
    assert (painted > 0).sum() == mask.sum()


def test_numbers_of_a_report_are_kept_with_its_gaps(lps, masks, load):
    volume = load(lps.ct)
    lesions = masks.lesions(masks.fromLabelmap(lps.mask, volume, None))
    boxes = boxesOf(lps.values, lesions, lps.affine)
    document = {
        "schema": "pasta-aid/reader-report/1",
        "lesions": [
            {"number": 7, "label": lesions[2].label, "box": boxes[2], "origin": "reader"},
            {"number": 3, "label": lesions[0].label, "box": boxes[0], "origin": "ai"},
        ],
    }
    node = masks.fromLabelmap(lps.mask, volume, document)
    again = {lesion.number: lesion for lesion in masks.lesions(node)}
    assert again[7].voxels == lesions[2].voxels
    assert again[7].origin == "reader"
    assert again[3].voxels == lesions[0].voxels
    assert again[3].origin == "accepted"
    assert sorted(again) == [3, 7, *range(8, 8 + len(lesions) - 2)]  # numbers are never reused


def boxesOf(values, lesions, affine):
    from scipy import ndimage

    inverse = np.linalg.inv(affine)
    out = []
    for lesion in lesions:
        parts, _n = ndimage.label(
            values == label_named(lesion.label).value, structure=np.ones((3, 3, 3))
        )
        near = inverse @ [*lesion.centreRas, 1]
        boxes = ndimage.find_objects(parts)
        sizes = np.bincount(parts.ravel())[1:]
        middle = [
            np.linalg.norm([(s.start + s.stop) / 2 - c for s, c in zip(box, near, strict=False)])
            if sizes[index] == lesion.voxels
            else np.inf
            for index, box in enumerate(boxes)
        ]
        out.append([[part.start, part.stop] for part in boxes[int(np.argmin(middle))]])
    return out


def test_names_colours_codes_and_tags_are_those_of_the_labels(lps, masks, load):
    from PASTAAidGui import Terminology

    node = masks.fromLabelmap(lps.mask, load(lps.ct), None)
    segmentation = node.GetSegmentation()
    liver, tumor = segmentation.GetSegment("liver"), segmentation.GetSegment("liver_tumor_1")
    assert liver.GetName() == "Liver (AI)"
    assert tumor.GetName() == "Liver tumor 1 (AI)"
    np.testing.assert_allclose(np.array(liver.GetColor()) * 255, label_named("liver").color)
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.vtkSlicerTerminologiesModuleLogic
    assert logic.DeserializeTerminologyEntry(tumor.GetTerminology(), entry)
    assert entry.GetTypeObject().GetCodeValue() == "108369006"
    assert entry.GetRegionObject().GetCodeMeaning() == "Liver"
    assert Terminology.labelOf(tumor.GetTerminology()).name == "liver_tumor"


def test_hidden_renamed_empty_and_foreign_segments_do_not_shift_values(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    segmentation = node.GetSegmentation()
    node.GetDisplayNode().SetSegmentVisibility("liver", False)
    segmentation.GetSegment("kidney").SetName("stomach")
    masks.addLesion(node, "kidney_stone", 99)
    foreign = segmentation.AddEmptySegment("other", "my notes")
    paint(node, foreign, lps, (slice(10, 40),) * 3)
    segmentation.SetSegmentIndex("liver", segmentation.GetNumberOfSegments() - 1)
    flat, values, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(values, lps.values)
    assert flat.foreign == ("my notes",)
    assert any("my notes" in sentence for sentence in flat.warnings)
    assert flat.values["liver"] == 2


def paint(node, segmentId, case, box):
    """Set a box of voxels in one segment through Slicer's own logic."""
    from PASTAAidGui import Voxels

    mask = np.ones([part.stop - part.start for part in box], bool)
    matrix = slicer.util.vtkMatrixFromArray(nib.load(case.ct).affine)
    image = Voxels.placedImage(mask, [part.start for part in box], matrix)
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(image, node, segmentId)


def test_overlaps_are_told_and_the_smaller_lesion_lies_above(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    large, small = masks.addLesion(node, "liver_tumor", 50), masks.addLesion(node, "liver_cyst", 51)
    paint(node, large, lps, (slice(30, 50), slice(30, 50), slice(60, 80)))
    paint(node, small, lps, (slice(40, 44), slice(40, 44), slice(70, 74)))
    flat, values, _affine = exported(masks, node, volume, tmp_path)
    assert (values[40:44, 40:44, 70:74] == 21).all()
    assert flat.lostVoxels[large] == 64
    assert small not in flat.lostVoxels
    under = np.zeros(lps.values.shape, bool)
    under[30:50, 30:50, 60:80] = True
    organs = (lps.values > 0) & (lps.values != 12) & under
    assert sum(flat.lostVoxels.values()) == 64 + organs.sum()
    expected = int(((lps.values > 0) & under).sum())
    under[:] = False
    under[40:44, 40:44, 70:74] = True
    expected += int((under & (lps.values == 0)).sum())
    assert flat.overlapVoxels == expected


def test_touching_lesions_of_one_label_are_told(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    one, two = masks.addLesion(node, "liver_cyst", 50), masks.addLesion(node, "liver_cyst", 51)
    paint(node, one, lps, (slice(30, 40), slice(30, 40), slice(60, 70)))
    paint(node, two, lps, (slice(40, 45), slice(40, 45), slice(70, 75)))  # corner to corner
    flat, _values, _affine = exported(masks, node, volume, tmp_path)
    assert [set(pair) for pair in flat.merged] == [{one, two}]


def test_many_segments_survive(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    values = np.zeros_like(lps.values)
    for index, corner in enumerate(np.ndindex(10, 8, 8)):
        i, j, k = np.array(corner) * 9 + 3
        values[i : i + 4, j : j + 4, k : k + 4] = 11 + index % 15
    nib.save(nib.Nifti1Image(values, lps.affine), tmp_path / "many.nii.gz")
    node = masks.fromLabelmap(tmp_path / "many.nii.gz", volume, None)
    assert len(masks.lesions(node)) == 640  # more than one byte can number
    _flat, out, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(out, values)


def test_origins_and_the_ai_mark(lps, masks, load):
    node = masks.fromLabelmap(lps.mask, load(lps.ct), None)
    segmentation = node.GetSegmentation()
    segmentation.GetSegment("liver").SetName("my liver")
    for segmentId, act, origin, name in (
        ("liver", masks.accept, "accepted", "my liver"),
        ("kidney", masks.touched, "reader", "Kidney"),
        ("liver_tumor_1", masks.accept, "accepted", "Liver tumor 1"),
    ):
        act(node, segmentId)
        segment = segmentation.GetSegment(segmentId)
        text = __import__("vtk").reference("")
        segment.GetTag("PASTAAid.origin", text)
        assert (str(text), segment.GetName()) == (origin, name)
    masks.touched(node, "liver")
    masks.accept(node, "liver")  # what a reader changed is not made the AI's again
    assert {lesion.origin for lesion in masks.lesions(node)} == {"ai", "accepted"}


def test_a_lesion_is_split_into_its_islands(case, masks, load, tmp_path):
    volume = load(case.ct)
    node = masks.fromLabelmap(case.mask, volume, None)
    added = masks.addLesion(node, "liver_tumor", 40)
    for box in ((10, 16), (20, 24), (30, 33)):
        paint_more(node, added, case, (slice(*box), slice(5, 9), slice(5, 9)))
    numbers = iter((41, 42))
    ids = masks.splitLesion(node, added, lambda: next(numbers))
    lesions = {lesion.number: lesion.voxels for lesion in masks.lesions(node)}
    assert (lesions[40], lesions[41], lesions[42]) == (96, 64, 48)
    assert ids[0] == added
    assert len(ids) == 3
    _flat, values, _affine = exported(masks, node, volume, tmp_path)
    assert (values[10:16, 5:9, 5:9] == 12).all()
    assert masks.splitLesion(node, added, lambda: 1 / 0) == [added]
    masks.deleteLesion(node, added)
    assert 40 not in {lesion.number for lesion in masks.lesions(node)}


def test_a_deleted_lesion_becomes_the_organ_that_surrounds_it(case, masks, load, tmp_path):
    volume = load(case.ct)
    values = case.values.copy()
    inside = np.argwhere(ndimage.binary_erosion(values == 2, np.ones((3, 3, 3)), iterations=3))[0]
    box = tuple(slice(int(place) - 2, int(place) + 3) for place in inside)
    values[box] = 12
    nib.save(nib.Nifti1Image(values, case.affine), tmp_path / "drawn.nii.gz")
    node = masks.fromLabelmap(tmp_path / "drawn.nii.gz", volume, None)
    lesion = next(each for each in masks.lesions(node) if each.voxels == 125)
    organ = masks.deleteLesion(node, lesion.segmentId)
    assert organ.name == "liver"
    _flat, after, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(after, case.values)


def test_a_deleted_lesion_outside_its_organ_leaves_nothing(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    added = masks.addLesion(node, "kidney_tumor", 40)
    assert masks.deleteLesion(node, added) is None  # not even drawn
    added = masks.addLesion(node, "kidney_tumor", 41)
    paint_more(node, added, lps, (slice(0, 5), slice(0, 5), slice(0, 5)))
    assert masks.deleteLesion(node, added) is None
    _flat, after, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(after, lps.values)


def paint_more(node, segmentId, case, box):
    from PASTAAidGui import Voxels

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    mask = np.ones([part.stop - part.start for part in box], bool)
    matrix = slicer.util.vtkMatrixFromArray(nib.load(case.ct).affine)
    image = Voxels.placedImage(mask, [part.start for part in box], matrix)
    logic.SetBinaryLabelmapToSegment(image, node, segmentId, logic.MODE_MERGE_MAX)


def test_drafts_keep_overlaps_names_tags_and_colours(case, masks, load, tmp_path):
    volume = load(case.ct)
    node = masks.fromLabelmap(case.mask, volume, None)
    added = masks.addLesion(node, "liver_cyst", 50)
    paint(node, added, case, (slice(30, 50), slice(30, 50), slice(30, 50)))
    masks.accept(node, "liver")
    node.GetSegmentation().GetSegment("kidney").SetName("Niere: rechts; links | beide")
    node.GetSegmentation().GetSegment("pancreas").SetColor(0.1, 0.2, 0.3)
    before = described(node)
    masks.saveDraft(node, tmp_path / "draft.seg.nrrd")
    lesions = masks.lesions(node)
    _flat, values, _affine = exported(masks, node, volume, tmp_path)
    slicer.mrmlScene.RemoveNode(node)
    again = masks.loadDraft(tmp_path / "draft.seg.nrrd", volume)
    assert described(again) == before
    for one, other in zip(lesions, masks.lesions(again), strict=True):
        assert (one.number, one.voxels, one.origin) == (other.number, other.voxels, other.origin)
        np.testing.assert_allclose(one.centreRas, other.centreRas, atol=1e-3)
    _flat, reloaded, _affine = exported(masks, again, volume, tmp_path)
    np.testing.assert_array_equal(reloaded, values)


def described(node):
    segmentation = node.GetSegmentation()
    rows = {}
    for segmentId in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentId)
        tags = []
        for name in ("PASTAAid.label", "PASTAAid.lesion", "PASTAAid.origin", "TerminologyEntry"):
            text = __import__("vtk").reference("")
            segment.GetTag(name, text)
            tags.append(str(text))
        color = tuple(round(channel, 3) for channel in segment.GetColor())
        rows[segmentId] = (segment.GetName(), color, *tags)
    return rows


def test_a_segment_drawn_on_another_grid_is_brought_to_the_ct(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    added = masks.addLesion(node, "liver_cyst", 50)
    from PASTAAidGui import Voxels

    fine = lps.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] += fine[:3, :3] @ [-0.5, -0.5, -0.5]  # eight voxels in each of the CT
    image = Voxels.placedImage(
        np.ones((40, 40, 40), bool), (20, 20, 20), slicer.util.vtkMatrixFromArray(fine)
    )
    segment = node.GetSegmentation().GetSegment(added)
    segment.AddRepresentation("Binary labelmap", image)
    segment.SetLabelValue(1)
    _flat, values, _affine = exported(masks, node, volume, tmp_path)
    assert (values[11:29, 11:29, 11:29] == 21).all()
    assert 18**3 <= (values == 21).sum() <= 21**3


def test_masks_moved_off_the_ct_are_refused(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(ValueError, match="harden"):
        masks.toLabelmap(node, volume, tmp_path / "out.nii.gz")


def test_the_editor_protects_others_and_allows_overlaps(lps, masks, load, tmp_path):
    volume = load(lps.ct)
    node = masks.fromLabelmap(lps.mask, volume, None)
    widget = slicer.qMRMLSegmentEditorWidget()
    masks.setUpEditor(widget, node, volume)
    added = masks.addLesion(node, "liver_tumor", 30)
    widget.setCurrentSegmentID(added)
    liver = np.argwhere(lps.values == 2).mean(axis=0)
    ras = (lps.affine @ [*liver, 1])[:3]
    before = {lesion.number: lesion.voxels for lesion in masks.lesions(node)}
    widget.hostPaint(ras, 12.0)
    after = {lesion.number: lesion.voxels for lesion in masks.lesions(node)}
    assert after.pop(30) > 100
    before.pop(30, None)
    assert after == before
    flat, values, _affine = exported(masks, node, volume, tmp_path)
    assert flat.overlapVoxels > 0
    changed = values != lps.values
    assert (values[changed] == 12).all()
    assert (lps.values[changed] != 12).all()
    widget.undo()
    _flat, values, _affine = exported(masks, node, volume, tmp_path)
    np.testing.assert_array_equal(values, lps.values)
