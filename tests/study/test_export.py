"""The export: the same bytes every time, nobody's name in it, each number as it was read."""

import csv
import gzip
import io
import json
import tomllib
import zipfile
from collections import Counter
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pasta.cli.main import main
from pasta.io import read_labelmap
from pasta.study.findings import StudyError
from pasta.study.folder import StudyFolder
from pasta.study.protocol import read_protocol
from pasta.study.tables import TABLES, dictionary, ordered

pq = pytest.importorskip("pyarrow.parquet")
from pasta.study.export import export


@pytest.fixture
def exported(script, tmp_path):
    path = tmp_path / "out" / "export.zip"
    export(script.study, path)
    return zipfile.ZipFile(path)


def rows_of(archive, name):
    return list(csv.DictReader(io.StringIO(archive.read(f"{name}.csv").decode())))


def test_the_same_study_gives_the_same_bytes(script, tmp_path):
    one = export(script.study, tmp_path / "one.zip")
    again = StudyFolder.open(script.study.path)
    two = export(again, tmp_path / "elsewhere" / "two.zip")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.sha256 == two.sha256


def test_nobody_s_name_is_in_any_member(exported, secret, script):
    images = [case.image for case in script.study.cases]
    assert all(secret in image for image in images)
    for name in exported.namelist():
        data = exported.read(name)
        if name.endswith(".gz"):
            data = gzip.decompress(data)
        for word in (secret, secret[:17], script.study.key.hex()):
            assert word.encode() not in data, name
            assert word not in name


def test_free_text_comes_only_when_it_is_asked_for(script, tmp_path, secret, exported):
    assert not [row for row in rows_of(exported, "answers") if row["type"] == "text"]
    export(script.study, tmp_path / "text.zip", with_text=True)
    with zipfile.ZipFile(tmp_path / "text.zip") as archive:
        texts = {row["value"] for row in rows_of(archive, "answers") if row["type"] == "text"}
        assert texts == {secret}
        assert json.loads(archive.read("manifest.json"))["free_text"] is True


def test_every_column_is_in_the_dictionary_and_no_other(exported):
    entries = {(row["table"], row["column"]) for row in rows_of(exported, "dictionary")}
    assert all(row["meaning"].endswith(".") for row in rows_of(exported, "dictionary"))
    tables = {name.removesuffix(".csv") for name in exported.namelist() if name.endswith(".csv")}
    assert tables == set(TABLES)
    for table in tables:
        header = exported.read(f"{table}.csv").decode().splitlines()[0].split(",")
        assert {(table, column) for column in header} <= entries
        assert len(header) == len(set(header))
        entries -= {(table, column) for column in header}
    assert not entries  # nothing is explained that is not there


def test_a_column_that_nobody_explained_is_an_error():
    row = dict.fromkeys(("case", "organ", "part", "positive", "source", "group"), "")
    assert ordered("cases", [row]) == [row]
    with pytest.raises(KeyError, match="surprise"):
        ordered("cases", [{**row, "surprise": 1}])
    assert len(dictionary()) == sum(map(len, TABLES.values()))


def test_times_are_those_of_the_script_without_pauses(script, exported):
    reads = [row for row in rows_of(exported, "reads") if row["status"] == "complete"]
    assert len(reads) == len(script.seconds) == 2 * (2 + 8 + 4 + 4 + 2) - 1
    for row in reads:
        seconds = script.seconds[row["block"], row["case"]]
        assert float(row["seconds"]) == pytest.approx(seconds, abs=1e-6)
        assert float(row["seconds_from_display"]) == pytest.approx(seconds - 1.5, abs=1e-6)
        assert float(row["reading_seconds"]) == pytest.approx(seconds - 1.5, abs=2e-3)
        assert float(row["load_seconds"]) == pytest.approx(1.5, abs=2e-3)
    paused = [row for row in reads if row["pauses"] == "1"]
    assert paused
    assert {float(row["paused_seconds"]) for row in paused} == {60.0}


def test_reads_hold_truth_answers_and_the_ai(script, exported):
    rows = [row for row in rows_of(exported, "reads") if row["part"] == "screening"]
    assert Counter((row["training"], row["arm"]) for row in rows) == {
        ("1", "solo"): 2,
        ("1", "assisted"): 2,
        ("0", "solo"): 8,
        ("0", "assisted"): 8,
    }
    truth = {script.study.code_of(case.image): case.positive for case in script.study.cases}
    for row in rows:
        assert row["positive"] == str(int(truth[row["case"]]))
        number = int(row["position"]) - int(row["training"])  # of the case in the sitting
        assert row["decision"] == str(number % 2)
        assert float(row["score"]) == 10 * number
        assert (row["ai_score"], row["ai_decision"]) == ("75.0", "1")  # each case is assisted once


def test_a_case_that_was_begun_and_never_ended_is_listed_as_interrupted(exported):
    (row,) = (row for row in rows_of(exported, "reads") if row["status"] != "complete")
    assert (row["status"], row["interrupted"], row["reader"]) == ("interrupted", "1", "S1")


def test_masks_are_compared_with_the_reference(exported):
    """By hand: reference 4x4x2 = 32 voxels of 6 mm3; solo 16 of them, assisted all; AI 48."""
    rows = rows_of(exported, "masks")
    assert len(rows) == 8
    for row in rows:
        solo = row["arm"] == "solo"
        assert float(row["dice"]) == pytest.approx(2 / 3 if solo else 1, abs=1e-6)
        assert float(row["volume_ml"]) == pytest.approx(0.096 if solo else 0.192)
        assert float(row["reference_volume_ml"]) == pytest.approx(0.192)
        assert float(row["hd95_mm"]) == pytest.approx(3 if solo else 0)
        assert float(row["ai_dice"]) == pytest.approx(0.5 if solo else 0.8, abs=1e-6)
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(exported.read(row["file"])))
        assert np.count_nonzero(mask.dataobj) == (16 if solo else 32)
        assert bytes(mask.header["descrip"]).strip(b"\0") == b""
        np.testing.assert_array_equal(mask.affine, np.diag([2.0, 1.0, 3.0, 1.0]))
        assert f"reference/liver/{row['case']}.nii.gz" in exported.namelist()
        assert f"ai/liver/{row['case']}.nii.gz" in exported.namelist()
    edits = {row["edits"] for row in rows_of(exported, "reads") if row["part"] == "masks"}
    assert edits == {"1"}


def test_references_in_the_store_are_compared_and_kept_as_locked(tagged, tmp_path, secret):
    script, store = tagged
    without = export(script.study, tmp_path / "without.zip")
    assert len(without.missing) == 4
    assert secret not in "".join(without.missing)
    done = export(script.study, tmp_path / "with.zip", store=store)
    assert len(done.missing) == 1  # the panel drew three of four
    with zipfile.ZipFile(tmp_path / "with.zip") as archive:
        dices = Counter((r["arm"], r["dice"]) for r in rows_of(archive, "masks"))
    assert sum(count for (_, value), count in dices.items() if value == "") == 2
    assert dices["assisted", "1.0"] == 3
    assert dices["solo", "0.666667"] == 3
    changed = replace_first(store, secret)
    assert changed.version == 2
    with pytest.raises(StudyError, match="1 reference mask"):
        export(script.study, tmp_path / "changed.zip", store=store)


def replace_first(store, secret):
    record = store.label(f"{secret}-m0", "reference")
    labelmap = read_labelmap(store.label_path(record))
    labelmap.voxels[0, 0, 0] = labelmap.voxels.max()
    return store.save_label(record.image, labelmap, tag="reference", reader="panel")


def test_attributes_stand_beside_reference_and_suggestion(exported):
    rows = rows_of(exported, "attributes")
    large = [row for row in rows if row["lesion"] == "2"]
    assert {row["reference"] for row in rows if row["lesion"] == "1"} == {""}
    shape = [row for row in large if row["attribute"] == "shape"]
    assert {(row["value"], row["reference"]) for row in shape} == {("Round-like", "Round-like")}
    told = {(row["arm"], row["ai_value"], row["changed"]) for row in shape}
    assert told == {("solo", "", ""), ("assisted", "Irregular", "1")}
    density = [row for row in large if row["attribute"] == "density"]
    assert {row["changed"] for row in density if row["arm"] == "assisted"} == {"0"}
    size = {row["value"] for row in large if row["attribute"] == "size"}
    assert size == {"12 x 10.5 x 9"}


def test_parquet_holds_what_the_csv_holds(exported):
    for table, columns in TABLES.items():
        found = pq.read_table(io.BytesIO(exported.read(f"{table}.parquet")))
        assert found.column_names == [column.name for column in columns]
        for column in columns:
            metadata = found.schema.field(column.name).metadata
            assert metadata[b"meaning"].decode() == column.meaning
        plain = rows_of(exported, table)
        assert len(plain) == found.num_rows
        for row, typed in zip(plain, found.to_pylist(), strict=True):
            for column in columns:
                value = typed[column.name]
                if column.type in ("text",):
                    assert row[column.name] == (value or "")
                elif row[column.name] == "":
                    assert value is None
                else:
                    assert float(row[column.name]) == value


def test_the_protocol_comes_with_codes_for_images(script, exported, tmp_path):
    (tmp_path / "p.toml").write_bytes(exported.read("protocol.toml"))
    found = read_protocol(tmp_path / "p.toml")
    original = script.study.protocol
    (image,) = original.parts[0].training_cases
    parts = (
        replace(original.parts[0], training_cases=(script.study.code_of(image),)),
        *original.parts[1:],
    )
    assert found == replace(original, parts=parts)
    assert tomllib.loads(exported.read("protocol.toml").decode())["study"]["seed"] == 11


def test_the_manifest_names_hashes_lock_and_logs(script, exported):
    manifest = json.loads(exported.read("manifest.json"))
    assert set(manifest["members"]) == set(exported.namelist()) - {"manifest.json"}
    assert manifest["lock"]["sha256"] == script.study.lock.sha256
    assert manifest["lock"]["weights"] == {"model": "a" * 64}
    assert set(manifest["logs"]) == {f"s-{block.id}" for block in script.study.allocation.blocks}
    assert manifest["problems"] == []


def test_the_imrmc_file_follows_its_format(exported, script):
    """Read as DIDSR/iMRMC does: counts above, then reader, case, modality, score; reader -1: truth."""
    text = exported.read("imrmc/screening-liver.imrmc").decode()
    head, data = text.split("BEGIN DATA:\n")
    counts = dict(
        line.split(": ") for line in head.splitlines() if line[:2] in ("N0", "N1", "NR", "NM")
    )
    rows = [line.split(",") for line in data.splitlines()]
    assert all(len(row) == 4 for row in rows)
    truth = {row[1]: row[3] for row in rows if row[0] == "-1"}
    scores = [row for row in rows if row[0] != "-1"]
    assert counts == {"N0": "4", "N1": "4", "NR": "2", "NM": "2"}
    assert Counter(truth.values()) == {"0": 4, "1": 4}
    assert {row[1] for row in scores} == set(truth)
    assert Counter((row[0], row[2]) for row in scores) == dict.fromkeys(
        [("J1", "solo"), ("J1", "assisted"), ("S1", "solo"), ("S1", "assisted")], 4
    )
    assert all(0 <= float(row[3]) <= 100 for row in scores)


def test_the_analysis_reads_the_export(script, tmp_path):
    from pasta.study.analysis.export import read_export

    export(script.study, tmp_path / "export.zip")
    found = read_export(tmp_path / "export.zip")
    assert found.locked
    assert found.study_id == "small"
    assert len(found.masks) == 8


def test_a_log_that_was_changed_is_not_exported_in_silence(script, tmp_path, capsys):
    log = sorted(script.study.logs.glob("s-*.jsonl"))[0]
    data = bytearray(log.read_bytes())
    place = data.index(b'"reading_seconds":') + 18
    data[place] = ord("9") if data[place] != ord("9") else ord("8")
    log.write_bytes(data)
    with pytest.raises(StudyError, match=f"{log.name}: event"):
        export(script.study, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()
    export(script.study, tmp_path / "yes.zip", exploratory=True)
    with zipfile.ZipFile(tmp_path / "yes.zip") as archive:
        assert log.name in json.loads(archive.read("manifest.json"))["problems"][0]
    seq = data[:place].count(b"\n") + 1
    assert main(["study", "verify", str(script.study.path)]) == 1
    assert capsys.readouterr().out.startswith(f"logs/{log.name}: event {seq}: it was changed.")


def test_a_changed_reference_is_told_without_its_name(script, tmp_path, secret):
    (script.study.path / f"{secret}.nii.gz").write_bytes(
        (script.study.path / f"{secret}.nii.gz").read_bytes() + b"\0"
    )
    export(script.study, tmp_path / "yes.zip", exploratory=True)
    with zipfile.ZipFile(tmp_path / "yes.zip") as archive:
        problems = json.loads(archive.read("manifest.json"))["problems"]
    assert problems == ["A reference mask was changed after the lock."]


def test_a_study_that_is_not_locked_is_exported_only_as_exploratory(script, tmp_path):
    (script.study.path / "lock.json").unlink()
    with pytest.raises(StudyError, match="not locked"):
        export(script.study, tmp_path / "no.zip")
    export(script.study, tmp_path / "yes.zip", exploratory=True)
    with zipfile.ZipFile(tmp_path / "yes.zip") as archive:
        assert json.loads(archive.read("manifest.json"))["lock"] is None


def test_a_study_that_nobody_read_gives_empty_tables(small_study, tmp_path):
    done = export(small_study, tmp_path / "empty.zip")
    assert done.rows["reads"] == done.rows["events"] == 0
    assert done.rows["allocation"] == 8 * 2 + 4 * 2 + 4 * 2 + 2 * 2
