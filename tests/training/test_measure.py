import json
import math

import numpy as np
import pytest

from pasta.geometry import Volume
from pasta.io import write_labelmap
from pasta.labels import label_named
from training.measure import MeasureError, main, measured, read_rows

LIVER, TUMOUR = label_named("liver").value, label_named("liver_tumor").value
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def labelmap(path, *boxes):
    voxels = np.zeros((24, 20, 16), np.uint8)
    for value, box in boxes:
        voxels[box] = value
    write_labelmap(Volume(voxels, AFFINE), path)


def box(*bounds):
    return tuple(slice(a, b) for a, b in bounds)


WHOLE = (LIVER, box((2, 22), (2, 18), (2, 14)))
FIRST = (TUMOUR, box((4, 8), (4, 8), (4, 8)))
SECOND = (TUMOUR, box((12, 16), (10, 14), (8, 12)))
FALSE = (TUMOUR, box((18, 20), (3, 5), (10, 12)))


@pytest.fixture
def table(tmp_path):
    labelmap(tmp_path / "truth.nii.gz", WHOLE, FIRST, SECOND)
    half = (TUMOUR, box((4, 6), (4, 8), (4, 8)))
    labelmap(tmp_path / "good.nii.gz", WHOLE, FIRST, SECOND)
    labelmap(tmp_path / "half.nii.gz", WHOLE, half, FALSE)
    lines = ["case,patient,model,prediction,reference"]
    for number in range(6):
        lines.append(f"c{number},p{number},good,good.nii.gz,truth.nii.gz")
        lines.append(f"c{number},p{number},half,half.nii.gz,truth.nii.gz")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_hand_drawn_prediction_is_measured_as_counted_by_hand(table):
    liver, tumour = measured(read_rows(table)[1])
    assert liver.dice == 1.0  # with its lesions
    # 32 of 128 voxels right, 8 wrong ones elsewhere
    assert tumour.dice == pytest.approx(2 * 32 / (40 + 128))
    assert (tumour.lesions_found, tumour.lesions, tumour.false_positives) == (1, 2, 1)
    assert tumour.volume_difference_ml == pytest.approx((40 - 128) * 2 / 1000)


def test_the_command_writes_json_tables_and_a_figure_with_the_paired_test(table, tmp_path, capsys):
    assert main([str(table), "--out", str(tmp_path / "out"), "--baseline", "half"]) == 0
    document = json.loads((tmp_path / "out" / "measurement.json").read_text())
    rows = {(r["model"], r["label"], r["metric"]): r for r in document["summary"]}
    best = rows["good", "liver_tumor", "dice"]
    assert best["mean"] == 1.0
    assert best["p_better_than_baseline"] == pytest.approx(1 / 2**6)
    assert rows["half", "liver_tumor", "sensitivity"]["false_positives_per_scan"] == 1.0
    for name in ("cases.csv", "summary.csv", "summary.md", "dice.png"):
        assert (tmp_path / "out" / name).stat().st_size > 50
    assert "| good | liver_tumor | dice | 6 | 1.000 |" in capsys.readouterr().out


def test_what_is_empty_follows_the_stated_rules(table, tmp_path):
    labelmap(tmp_path / "none.nii.gz", WHOLE)
    table.write_text(
        "case,patient,model,prediction,reference,labels\n"
        "a,a,m,none.nii.gz,truth.nii.gz,liver_tumor;liver_cyst\n"
        "b,b,m,half.nii.gz,none.nii.gz,liver_tumor\n"
    )
    missed, absent = measured(read_rows(table)[0])
    assert (missed.dice, missed.surface_dice) == (0.0, 0.0)
    assert math.isnan(missed.hd95_mm)
    assert math.isnan(absent.dice)
    (invented,) = measured(read_rows(table)[1])
    assert invented.dice == 0.0
    assert math.isnan(invented.sensitivity)
    assert invented.false_positives == 2


def test_a_case_that_cannot_be_measured_is_told_and_the_rest_goes_on(table, tmp_path, capsys):
    (tmp_path / "half.nii.gz").write_bytes(b"broken")
    assert main([str(table), "--out", str(tmp_path / "out")]) == 1
    assert "half/c0: " in capsys.readouterr().err
    document = json.loads((tmp_path / "out" / "measurement.json").read_text())
    assert len(document["failed"]) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,patient\n", "no column 'model'"),
        ("case,patient,model,prediction,reference\n", "no line to measure"),
        ("case,patient,model,prediction,reference\na,a,m,x,y\na,b,m,x,y\n", "line 3: case a"),
        ("case,patient,model,prediction,reference\na,,m,x,y\n", "line 2: a field is empty"),
        ("case,patient,model,prediction,reference,labels\na,a,m,x,y,spleen\n", "'spleen' is no"),
    ],
)
def test_a_wrong_table_names_its_line(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(MeasureError, match=message):
        read_rows(tmp_path / "pairs.csv")
