import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pasta.errors import LabelError, PastaError
from pasta.geometry import Volume
from pasta.labels import label_named
from training.synthesis.__main__ import main
from training.synthesis.standardisation import (
    CaseSource,
    import_cases,
    labels_at_1mm,
    mentioned_organs,
    names_of_scheme,
    read_case_list,
    scan_range_of,
    template_of,
)
from training.synthesis.templates import (
    TISSUES,
    Template,
    TemplateError,
    TemplateStore,
    signed_distance,
)
from training.tissues import TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2

LIVER, STOMACH = label_named("liver").value, label_named("stomach").value


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


@pytest.fixture
def scan():
    """A body of fat with a liver, a stomach, aorta and vena cava; 2 mm, RAS; v1 ids."""
    shape = (60, 50, 40)
    values = np.zeros(shape, np.uint8)
    hu = np.full(shape, -1000, np.int16)
    hu[5:55, 5:45] = -100
    for value, centre, radius, attenuation in (
        (5, (20, 25, 20), 12, 60),
        (6, (42, 25, 20), 8, 40),
        (7, (31, 38, 20), 4, 150),
        (8, (25, 42, 20), 3, 120),
    ):
        there = ball(shape, centre, radius)
        values[there] = value
        hu[there] = attenuation
    return hu, values


def saved(folder, name, array, spacing=2.0):
    path = folder / name
    nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1.0])), path)
    return path


@pytest.fixture
def source(scan, tmp_path):
    hu, values = scan
    return CaseSource(
        saved(tmp_path, "ct.nii.gz", hu),
        saved(tmp_path, "map.nii.gz", values),
        "totalsegmentator_v1_fast",
        id="one",
    )


def test_template_lies_where_the_scan_lies_along_lps_at_1_mm(source, scan):
    template, total = template_of(source)
    assert template.grid.axcodes == "LPS"
    assert template.grid.spacing_mm == pytest.approx((1, 1, 1))
    centre = np.array(ndimage.center_of_mass(template.labels == LIVER))
    at_mm = template.affine @ np.append(centre, 1)
    np.testing.assert_allclose(at_mm[:3], np.array([20, 25, 20]) * 2, atol=0.6)  # RAS, spacing 2
    assert np.median(template.hu[template.labels == LIVER]) == 60
    wanted = (scan[1] == 5).sum() * 8
    assert template.organs["liver"].volume_mm3 == pytest.approx(wanted, rel=0.02)
    assert set(np.unique(total)) == {0, 5, 6, 7, 8}


def test_tissues_name_vessels_by_label_and_the_rest_by_hu(source):
    template, _ = template_of(source)
    names = {value: name for name, value in TISSUES.items()}
    found = {names[int(v)] for v in np.unique(template.tissues)}
    assert {"aorta", "vena_cava", "fat", "air"} <= found
    assert not template.tissues[template.labels > 0].any()
    assert np.median(template.hu[template.tissues == TISSUES["aorta"]]) == 150


@pytest.mark.parametrize(
    ("aorta", "vena_cava", "enhanced"), [(150, 120, True), (60, 90, True), (60, 50, False)]
)
def test_contrast_follows_aorta_and_vena_cava(aorta, vena_cava, enhanced, source, scan, tmp_path):
    hu, values = scan
    hu[values == 7], hu[values == 8] = aorta, vena_cava
    saved(
        tmp_path,
        "ct.nii.gz",
        np.where(ndimage.binary_dilation(values == 7), aorta, hu).astype(np.int16),
    )
    template, _ = template_of(source)
    assert template.contrast is enhanced


def test_case_without_vessels_asks_for_the_phase(source, scan, tmp_path):
    _, values = scan
    values[(values == 7) | (values == 8)] = 0
    saved(tmp_path, "map.nii.gz", values)
    with pytest.raises(
        LabelError, match=r"neither aorta nor inferior vena cava .*contrast: yes or no"
    ):
        template_of(source)


def test_unknown_label_values_are_named(source, scan, tmp_path):
    _, values = scan
    values[0, 0, 0] = 117
    saved(tmp_path, "map.nii.gz", values)
    with pytest.raises(LabelError, match=r"map.nii.gz: label values 117 are not in"):
        template_of(source)


def test_bad_cases_are_told_and_the_rest_goes_on(source, scan, tmp_path):
    _, values = scan
    other = saved(tmp_path, "other.nii.gz", values[:-1])
    cases = [
        CaseSource(source.ct, other, source.scheme, id="grid"),
        CaseSource(tmp_path / "absent.nii.gz", other, source.scheme, id="absent"),
        CaseSource(source.ct, source.labelmap, "totalsegmentator_v9", id="scheme"),
        source,
    ]
    store = TemplateStore(tmp_path / "store")
    outcomes = import_cases(cases, store)
    assert [outcome.template for outcome in outcomes] == [None, None, None, "one"]
    assert "Export it on the grid of the CT" in outcomes[0].problem
    assert "no such file" in outcomes[1].problem
    assert "label scheme 'totalsegmentator_v9': unknown" in outcomes[2].problem
    assert store.ids() == ["one"]


def test_store_gives_back_what_was_put_in(source, tmp_path):
    store = TemplateStore(tmp_path / "store")
    template, total = template_of(source)
    store.put(template, total)
    loaded = TemplateStore(tmp_path / "store").load("one")
    for name in ("hu", "labels", "tissues", "blocked", "affine"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(template, name))
    np.testing.assert_array_equal(store.structures("one"), total)
    assert loaded.organs == template.organs
    with pytest.raises(ValueError, match="read-only"):
        loaded.hu[0, 0, 0] = 1
    with pytest.raises(TemplateError, match="in the store already"):
        store.put(template, total)
    with pytest.raises(TemplateError, match="not in the store"):
        store.load("two")


def test_half_written_template_is_not_there(source, tmp_path, monkeypatch):
    store = TemplateStore(tmp_path / "store")
    template, total = template_of(source)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(PastaError, match="cannot be written"):
        store.put(template, total)
    assert store.ids() == []
    assert not list(store.folder.glob("one/*"))


def test_distances_are_whole_mm_negative_inside_and_kept(source, tmp_path):
    store = TemplateStore(tmp_path / "store")
    store.put(*template_of(source))
    template = store.load("one")
    distances = template.distances("liver")
    assert distances.dtype == np.int8
    assert distances.shape == template.shape
    assert ((distances < 0) == (template.labels == LIVER)).all()
    assert distances.min() == pytest.approx(-24, abs=2)  # ball of 12 voxels of 2 mm
    np.testing.assert_array_equal(store.load("one").distances("liver"), distances)
    assert (store.folder / "one" / "distance_liver.npy").exists()


def test_distance_of_a_hand_drawn_row():
    mask = np.zeros((7, 1, 1), bool)
    mask[2:5] = True
    assert signed_distance(mask).ravel().tolist() == [2, 1, -1, -2, -1, 1, 2]


def test_existing_lesions_are_organ_and_blocked(source, scan, tmp_path):
    _, values = scan
    mask = ball(values.shape, (20, 25, 20), 4).astype(np.uint8)
    lesions = saved(tmp_path, "lesions.nii.gz", mask)
    template, _ = template_of(
        CaseSource(source.ct, source.labelmap, source.scheme, lesions=lesions)
    )
    where = ball(template.shape, ndimage.center_of_mass(template.labels == LIVER), 7)
    assert template.blocked[where].all()
    assert (template.labels[where] == LIVER).all()
    reach = np.abs(np.argwhere(template.blocked) - np.argwhere(template.blocked).mean(axis=0)).max()
    assert reach == pytest.approx(8 + 5, abs=1.5)


def test_pasta_labels_give_organs_lesions_and_v1_values(source, scan, tmp_path):
    _, values = scan
    ours = np.zeros_like(values)
    ours[values == 5] = LIVER
    ours[ball(values.shape, (20, 25, 20), 4)] = label_named("liver_tumor").value
    labelmap = saved(tmp_path, "ours.nii.gz", ours)
    with pytest.raises(LabelError, match="contrast: yes or no"):
        template_of(CaseSource(source.ct, labelmap, "pasta"))
    template, total = template_of(CaseSource(source.ct, labelmap, "pasta", contrast=True))
    assert list(template.organs) == ["liver"]
    assert template.blocked.any()
    assert set(np.unique(total)) == {0, 5}


def test_v1_and_v2_of_one_scan_make_one_template(source, scan, tmp_path):
    _, values = scan
    to_v2 = np.zeros(256, np.uint8)
    by_name = {name: value for value, name in TOTALSEGMENTATOR_V2.items()}
    for value, name in TOTALSEGMENTATOR_V1.items():
        to_v2[value] = by_name.get(name, 0)
    labelmap = saved(tmp_path, "v2.nii.gz", to_v2[values])
    first, total = template_of(source)
    second, again = template_of(CaseSource(source.ct, labelmap, "totalsegmentator_v2"))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.tissues, second.tissues)
    np.testing.assert_array_equal(total, again)


def test_v2_values_stand_in_their_places():
    # spot checks against the class list of TotalSegmentator 2.18
    assert len(TOTALSEGMENTATOR_V2) == 117
    for value, name in {7: "pancreas", 15: "esophagus", 20: "colon", 21: "urinary_bladder"}.items():
        assert TOTALSEGMENTATOR_V2[value] == name
    for value, name in {52: "aorta", 63: "inferior_vena_cava", 117: "costal_cartilages"}.items():
        assert TOTALSEGMENTATOR_V2[value] == name


def test_mask_that_floats_off_the_wall_fails_the_gate(scan):
    hu, values = scan
    hu, values = (a.repeat(2, 0).repeat(2, 1).repeat(2, 2) for a in (hu, values))
    labels = np.where(values == 6, STOMACH, 0).astype(np.uint8)
    assert Template.from_arrays("good", hu, labels).usable("stomach") == (True, "")
    shifted = np.roll(labels, 12, axis=0)
    usable, reason = Template.from_arrays("bad", hu, shifted).usable("stomach")
    assert not usable
    assert "80% needed" in reason


def test_small_and_absent_organs_are_not_used():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:25, 10:25, 10:25] = LIVER  # 3375 mm3
    template = Template.from_arrays("small", np.full(labels.shape, 50, np.int16), labels)
    assert template.usable("liver")[1].startswith("liver has 3375 mm3")
    assert template.usable("kidney")[1] == "kidney is not in the scan"
    with pytest.raises(TemplateError, match="no kidney in it"):
        template.organ_box("kidney")


@pytest.mark.parametrize(
    ("impression", "organs"),
    [
        ("No focal hepatic lesion. Simple renal cyst.", {"liver", "kidney"}),
        ("Cholelithiasis; gallbladder wall thin.", {"gallbladder"}),
        ("Bladder unremarkable.", {"bladder"}),
        ("Normal.", set()),
        ("Semicolon; colonic diverticula", {"colorectum"}),
    ],
)
def test_organs_of_the_impression_are_found(impression, organs):
    assert set(mentioned_organs(impression)) == organs


def test_organs_that_the_impression_mentions_are_not_used(source, tmp_path):
    store = TemplateStore(tmp_path / "store")
    case = CaseSource(
        source.ct, source.labelmap, source.scheme, id="told", impression="Hepatic cyst."
    )
    import_cases([case, source], store)
    assert store.load("told").usable("liver") == (False, "the impression mentions liver")
    assert store.ids_for("liver_tumor") == ["one"]
    assert store.ids_for("gastric_cancer") == ["one", "told"]
    assert store.ids_for("kidney_stone") == []


@pytest.mark.parametrize(
    ("structures", "wanted"),
    [
        ({"vertebrae_T1", "lung_upper_lobe_left", "lung_upper_lobe_right"}, "thorax"),
        ({"vertebrae_T8", "urinary_bladder"}, "abdomen-pelvis"),
        (
            {"vertebrae_T1", "lung_upper_lobe_left", "lung_upper_lobe_right", "urinary_bladder"},
            "thorax-abdomen-pelvis",
        ),
        ({"liver", "vertebrae_L1"}, "other"),
    ],
)
def test_scan_range_is_that_of_the_paper(structures, wanted):
    assert scan_range_of(structures) == wanted


def test_coarse_labels_come_without_stairs():
    from pasta.preprocessing.resampling import grid_map

    coarse = ball((30, 30, 30), (15, 15, 15), 9).astype(np.uint8)
    plan = grid_map(Volume(coarse, np.diag([-3.0, -3.0, 3.0, 1.0])).grid, "LPS", (1.0, 1.0, 1.0))
    fine = labels_at_1mm(coarse, plan) > 0
    distance = np.sqrt(sum((g - 46.0) ** 2 for g in np.indices(fine.shape)))
    surface = fine & ~ndimage.binary_erosion(fine)
    stairs = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2) > 0
    rough = stairs & ~ndimage.binary_erosion(stairs)
    assert distance[surface].std() < 0.6 * distance[rough].std()
    assert fine.sum() == pytest.approx(stairs.sum(), rel=0.03)


def test_scheme_from_a_file_and_its_mistakes(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"3": "liver", "4": "aorta"}')
    assert names_of_scheme(str(path)) == {3: "liver", 4: "aorta"}
    path.write_text('{"3": "livre"}')
    with pytest.raises(LabelError, match="unknown structures livre"):
        names_of_scheme(str(path))


def test_case_list_names_its_bad_line(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("ct,labelmap,scheme,contrast\na.nii.gz,b.nii.gz,pasta,yes\na.nii.gz,,pasta,\n")
    with pytest.raises(TemplateError, match=r"cases.csv, line 3: no labelmap"):
        read_case_list(path)
    path.write_text("ct,labelmap,scheme,contrast\na.nii.gz,b.nii.gz,pasta,perhaps\n")
    with pytest.raises(TemplateError, match="neither yes nor no"):
        read_case_list(path)


def test_command_imports_what_it_can_and_says_what_not(source, tmp_path, capsys):
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ct", "labelmap", "scheme", "id"])
        writer.writerow(["ct.nii.gz", "map.nii.gz", "totalsegmentator_v1", "first"])
        writer.writerow(["ct.nii.gz", "none.nii.gz", "totalsegmentator_v1", "second"])
    store = str(tmp_path / "store")
    assert main(["templates", "--store", store, "import", str(tmp_path / "cases.csv")]) == 1
    out = capsys.readouterr()
    assert "1 of 2 cases are templates" in out.out
    assert "second: left out: none.nii.gz: no such file" in out.err
    assert main(["templates", "--store", store, "list"]) == 0
    assert "liver: usable" in capsys.readouterr().out


@pytest.mark.slow
def test_real_scan_becomes_a_template(real_data, tmp_path):
    folder = real_data / "ct" / "ts_example"
    case = CaseSource(
        folder / "ct.nii.gz", folder / "organs.nii.gz", "totalsegmentator_v2_fast", id="ts_example"
    )
    store = TemplateStore(tmp_path)
    (outcome,) = import_cases([case], store)
    assert outcome.problem == ""
    template = store.load("ts_example")
    assert template.contrast is False  # aorta 41 HU
    assert template.slice_mm == pytest.approx(3.0)
    assert 900_000 < template.organs["liver"].volume_mm3 < 1_300_000
    assert np.median(template.hu[template.labels == LIVER]) == pytest.approx(46, abs=8)
    assert all(template.usable(name)[0] for name in ("stomach", "colorectum", "bladder"))
    assert store.ids_for("kidney_stone") == ["ts_example"]
