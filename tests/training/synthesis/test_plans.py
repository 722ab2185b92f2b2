"""Plans, exports, the data set and the realism study, on a small template of our own."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pasta.errors import OutputError
from pasta.labels import label_named
from training.synthesis import export as export_module
from training.synthesis import planning
from training.synthesis.__main__ import main
from training.synthesis.cases import box_around, drawn, recipes_of
from training.synthesis.dataset import SyntheticLesions
from training.synthesis.export import export_plan, read_export
from training.synthesis.planning import (
    PlanError,
    make_plan,
    part_path,
    read_plan,
    read_spec,
    spec_for,
)
from training.synthesis.realism import Rating, RealismError, read_key, read_ratings, score
from training.synthesis.recipe import RecipeError
from training.synthesis.templates import TISSUES, Template, TemplateStore

LIVER, TUMOR, CYST = (label_named(n).value for n in ("liver", "liver_tumor", "liver_cyst"))
TYPES = ("liver_tumor", "liver_cyst")
COUNT = 36


def ball(shape, centre, radii):
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two bodies with liver, spine and back muscle, 1 mm."""
    store = TemplateStore(tmp_path_factory.mktemp("store"))
    for number in range(2):
        rng = np.random.default_rng(number)
        shape = (110, 96, 90)
        hu = np.full(shape, -1000, np.float32)
        labels, tissues = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        hu[6:104, 6:90] = -100
        muscle = np.zeros(shape, bool)
        muscle[30:80, 66:86] = True
        hu[muscle], tissues[muscle] = 55, TISSUES["muscle"]
        bone = np.zeros(shape, bool)
        bone[50:60, 58:80] = True
        hu[bone], labels[bone], tissues[bone] = 400, label_named("bone").value, 0
        liver = ball(shape, (42, 34, 44 + 3 * number), (32, 24, 36))
        hu[liver], labels[liver] = 105, LIVER
        hu = ndimage.gaussian_filter(hu, 0.7) + 9 * rng.standard_normal(shape)
        template = Template.from_arrays(
            f"body{number}", np.rint(hu).astype(np.int16), labels, tissues, licence="CC0"
        )
        total = np.where(labels == LIVER, 5, np.where(labels > 0, 20, 0)).astype(np.uint8)
        store.put(template, total)
    return store


@pytest.fixture(scope="module")
def plan(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    make_plan(folder, store, spec_for(store, COUNT, 5, TYPES), workers=0)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "recipes").iterdir())}


def test_plan_has_as_many_of_each_type_and_small_recipes(plan):
    cases = list(read_plan(plan))
    assert [case.number for case in cases] == list(range(COUNT))
    assert [case.type for case in cases[:4]] == [*TYPES, *TYPES]
    assert sum(bool(case.recipes) for case in cases) >= COUNT - 2
    sizes = [len(json.dumps(r, separators=(",", ":"))) for c in cases for r in c.recipes]
    assert max(sizes) < 1300
    assert all(report["location"] == "Liver" for case in cases for report in case.reports)


@pytest.mark.slow
def test_plan_killed_and_started_again_is_the_same(store, plan, tmp_path):
    arguments = [sys.executable, "-m", "training.synthesis", "make", "--store", str(store.folder)]
    arguments += ["--plan", str(tmp_path / "p"), "--count", str(COUNT), "--seed", "5"]
    arguments += ["--types", *TYPES, "--workers", "1"]
    first = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not part_path(tmp_path / "p", 0).exists() and time.monotonic() < end:
        assert first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    killed_at = len(list((tmp_path / "p" / "recipes").glob("*.jsonl")))
    assert killed_at == 1  # of two parts
    with pytest.raises(PlanError, match="the plan is not finished"):
        list(read_plan(tmp_path / "p"))
    written = part_path(tmp_path / "p", 0).stat().st_mtime_ns
    make_plan(tmp_path / "p", store, spec_for(store, COUNT, 5, TYPES), workers=0)
    assert content(tmp_path / "p") == content(plan)
    assert part_path(tmp_path / "p", 0).stat().st_mtime_ns == written


def test_finished_plan_is_left_alone_and_another_one_refused(store, plan):
    before = content(plan)
    done = make_plan(plan, store, spec_for(store, COUNT, 5, TYPES), workers=0)
    assert (done.made, done.found) == (0, COUNT)
    with pytest.raises(PlanError, match="a plan with another seed"):
        make_plan(plan, store, spec_for(store, COUNT, 6, TYPES), workers=0)
    assert content(plan) == before


def test_plan_without_a_template_says_so(store):
    with pytest.raises(PlanError, match="no template can take kidney_stone"):
        spec_for(store, 3, 0, ["kidney_stone"])
    with pytest.raises(PlanError, match="--count is 0"):
        spec_for(store, 0, 0, TYPES)


def test_plan_of_other_code_or_templates_is_not_replayed(store, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "code_fingerprint", lambda: "other")
    with pytest.raises(PlanError, match="another version of the generator"):
        export_plan(plan, store, tmp_path, workers=0)
    with pytest.raises(PlanError, match="another code"):
        make_plan(plan, store, spec_for(store, COUNT, 5, TYPES), workers=0)
    monkeypatch.undo()
    monkeypatch.setattr(TemplateStore, "document", lambda self, name: {"sha256": "other"})
    with pytest.raises(PlanError, match="changed since"):
        SyntheticLesions(plan, store.folder)


def test_corrupt_lines_are_told_with_their_place(store, tmp_path):
    make_plan(tmp_path, store, spec_for(store, 2, 1, TYPES), workers=0)
    path = part_path(tmp_path, 0)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:40] + "\n")
    with pytest.raises(PlanError, match=r"00000.jsonl, line 2: a corrupt recipe"):
        list(read_plan(tmp_path))
    path.write_text(lines[0] + "\n")
    with pytest.raises(PlanError, match="1 of 2 lines"):
        list(read_plan(tmp_path))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="damaged"):
        read_spec(tmp_path)


def test_replayed_piece_is_that_of_the_whole(store, plan):
    case = next(case for case in read_plan(plan) if case.recipes)
    template = store.load(case.template)
    recipes = recipes_of(case.recipes, "here")
    whole = drawn(template, recipes)
    box = box_around(template.shape, recipes[0].centre, (40, 40, 40))
    piece = drawn(template, recipes, box)
    np.testing.assert_array_equal(piece.hu, whole.hu[box])
    np.testing.assert_array_equal(piece.labels, whole.labels[box])
    broken = {**case.recipes[0], "seed": "x"}
    with pytest.raises(RecipeError, match="case 7"):
        recipes_of([broken], "case 7")


@pytest.fixture(scope="module")
def exported(store, plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    done = export_plan(plan, store, out, limit=4, workers=0)
    assert done.written + done.empty == 4
    return out


def test_export_has_the_layout_of_pasta_gen(store, plan, exported):
    cases = {case.number: case for case in read_plan(plan) if case.recipes and case.number < 4}
    assert {str(p.relative_to(exported)) for p in read_export(exported)} == {
        f"Liver/{'Tumor' if case.type == 'liver_tumor' else 'Cyst'}/{case.index}"
        for case in cases.values()
    }
    folder = exported / "Liver" / "Tumor" / "0"
    images = {
        name: nib.load(folder / f"{name}.nii.gz") for name in ("img", "label", "total", "classes")
    }
    voxels = {name: np.asarray(image.dataobj) for name, image in images.items()}
    assert len({array.shape for array in voxels.values()}) == 1
    for image in images.values():
        np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1, 1]))
    assert set(np.unique(voxels["label"])) == {0, 1, 2}
    np.testing.assert_array_equal(voxels["label"] == 2, voxels["classes"] == TUMOR)
    np.testing.assert_array_equal(voxels["label"] == 1, voxels["classes"] == LIVER)
    assert set(np.unique(voxels["total"])) <= {0, 5, 20}
    document = json.loads((folder / "type.json").read_text())
    assert list(document) == ["5"]
    assert list(document["5"]) == [
        *("Enhancement status", "Location", "Size", "Shape", "Density", "Heterogeneity"),
        *("Surface", "Invasion"),
    ]
    assert document["5"]["Location"] == "Liver"
    replay = json.loads((folder / "recipe.json").read_text())
    case = drawn(store.load(replay["template"]), recipes_of(replay["recipes"], "replay"))
    np.testing.assert_array_equal(case.hu, voxels["img"])


def test_full_disk_leaves_nothing_half_written(store, plan, tmp_path, monkeypatch):
    write, calls = export_module.write_nifti, []

    def until_full(volume, path):
        calls.append(path)
        if len(calls) == 7:  # the third file of the second case
            path.write_bytes(b"half")
            raise OutputError(errno.ENOSPC, "No space left on device")
        write(volume, path)

    monkeypatch.setattr(export_module, "write_nifti", until_full)
    with pytest.raises(OutputError):
        export_plan(plan, store, tmp_path, limit=4, workers=0)
    assert len(list(read_export(tmp_path))) == 1
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    done = export_plan(plan, store, tmp_path, limit=4, workers=0)
    assert done.found == 1
    assert done.written + done.found + done.empty == 4


def test_leftovers_of_a_killed_export_are_removed(store, plan, tmp_path):
    part = tmp_path / "Liver" / "Tumor" / ".0.part"
    part.mkdir(parents=True)
    (part / "img.nii.gz").write_bytes(b"half")
    export_plan(plan, store, tmp_path, limit=2, workers=0)
    assert not part.exists()
    assert (tmp_path / "Liver" / "Tumor" / "0" / "type.json").exists()


def test_folder_of_another_export_is_refused(store, plan, exported):
    with pytest.raises(PlanError, match="another plan or size"):
        export_plan(plan, store, exported, size=(64, 64, 64), workers=0)


def test_data_set_draws_patches_and_repeats_itself(store, plan):
    data = SyntheticLesions(plan, store.folder, (64, 64, 120))
    item, again = data[1], data[1]
    assert item["image"].shape == (1, 64, 64, 120)
    assert (item["image"] == again["image"]).all()
    assert item["lesion"].any()
    assert (item["labels"][item["lesion"]] == label_named(item["type"]).value).all()
    assert (item["image"][0, :, :, 90:] == -1000).all()  # beyond the scan
    assert item["attributes"].shape == (5,)
    data.set_epoch(1)
    assert not (data[1]["image"] == item["image"]).all()  # moved


def test_fresh_epochs_draw_other_lesions_of_the_same_type(store, plan):
    data = SyntheticLesions(plan, store.folder, (64, 64, 64), fresh=True)
    first = data[0]
    data.set_epoch(1)
    second = data[0]
    assert first["type"] == second["type"]
    assert first["report"] != second["report"]


@pytest.fixture(scope="module")
def packet(store, plan, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packet")
    with (folder / "real.csv").open("w", newline="") as file:  # any CT with a mask serves here
        writer = csv.writer(file)
        writer.writerow(["ct", "labelmap", "type"])
        for path in sorted(read_export(exported)):
            kind = "liver_tumor" if path.parent.name == "Tumor" else "liver_cyst"
            writer.writerow([path / "img.nii.gz", path / "classes.nii.gz", kind])
    out = folder / "out"
    arguments = ["realism-study", "pack", "--store", str(store.folder), "--plan", str(plan)]
    arguments += ["--real", str(folder / "real.csv"), "--out", str(out), "--crop", "48"]
    assert main([*arguments, "--per-type", "2", "--described", "1"]) == 0
    return out


def test_packet_hides_what_is_real(packet):
    key = json.loads((packet / "sealed" / "key.json").read_text())["images"]
    images = sorted((packet / "images").iterdir())
    assert [path.name.removesuffix(".nii.gz") for path in images] == [e["image"] for e in key]
    assert len({nib.load(path).shape for path in images}) == 1
    assert len({bytes(nib.load(path).header.binaryblock) for path in images}) == 1
    realism = [entry for entry in key if entry["part"] == "realism"]
    for kind in TYPES:
        sources = [entry["source"] for entry in realism if entry["type"] == kind]
        assert sources.count("real") == sources.count("synthetic") > 0
    assert (packet / "sealed" / "key.json").stat().st_mode & 0o077 == 0
    open_text = (packet / "packet.json").read_text()
    assert "real" not in open_text
    assert "secret" not in open_text


def test_changed_key_is_noticed(packet, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(packet, copy)
    text = (copy / "sealed" / "key.json").read_text()
    (copy / "sealed" / "key.json").write_text(text.replace('"real"', '"unreal"', 1))
    with pytest.raises(RealismError, match="changed afterwards"):
        read_key(copy)


def test_scorer_makes_the_tables_of_figure_5(packet, tmp_path):
    key = read_key(packet)
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["reader", "image", "question", "rating"])
        for (image, part), entry in key.items():
            for reader, less in (("R1", 0), ("R2", 1)):
                if part == "realism":
                    writer.writerow(
                        [reader, image, "realism", (5 if entry["source"] == "real" else 4) - less]
                    )
                else:
                    writer.writerow([reader, image, "density", 5 - less])
                    writer.writerow([reader, image, "shape", 4 - less])
    arguments = ["realism-study", "score", "--packet", str(packet), "--ratings", str(path)]
    assert main([*arguments, "--out", str(tmp_path / "tables")]) == 0
    with (tmp_path / "tables" / "realism.csv").open() as file:
        rows = {(row["type"], row["source"]): row for row in csv.DictReader(file)}
    assert float(rows["liver_tumor", "real"]["mean"]) == 4.5  # readers give 5 and 4
    assert float(rows["liver_tumor", "synthetic"]["mean"]) == 3.5
    assert rows["liver_tumor", "real"]["readers"] == "2"
    with (tmp_path / "tables" / "consistency.csv").open() as file:
        means = {(r["type"], r["attribute"]): float(r["mean"]) for r in csv.DictReader(file)}
    assert means["liver_tumor", "density"] == 4.5
    assert means["liver_tumor", "shape"] == 3.5
    assert means["liver_tumor", "all"] == 4.0
    with (tmp_path / "tables" / "told_apart.csv").open() as file:
        apart = {row["type"]: row for row in csv.DictReader(file)}
    assert float(apart["liver_tumor"]["chance_real_above"]) == 1.0


def test_scorer_lists_what_is_missing_and_refuses_strangers():
    key = {
        (str(n), "realism"): {"type": "liver_cyst", "source": s}
        for n, s in enumerate(("real", "synthetic"))
    }
    tables = score([Rating("A", "0", "realism", 3), Rating("B", "1", "realism", 3)], key)
    assert {(row["image"], row["reader"]) for row in tables["missing"]} == {("0", "B"), ("1", "A")}
    with pytest.raises(RealismError, match="not in this packet"):
        score([Rating("A", "9", "realism", 3)], key)


def test_rating_outside_1_to_5_is_told_with_its_line(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("reader,image,question,rating\nA,x,realism,3\nA,y,realism,6\n")
    with pytest.raises(RealismError, match="line 3"):
        read_ratings(path)


def test_gallery_is_one_page_with_pictures_and_reports(store, plan, tmp_path):
    out = tmp_path / "gallery.html"
    arguments = ["gallery", "--store", str(store.folder), "--plan", str(plan), "--out", str(out)]
    assert main([*arguments, "--examples", "1"]) == 0
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * len(TYPES)
    assert "Liver cyst" in page
    assert "http" not in page.replace("http-equiv", "")
