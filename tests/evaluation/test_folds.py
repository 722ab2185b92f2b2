import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasta.evaluation.folds import FoldsError, patient_folds, read_folds, save_folds


@given(st.integers(2, 5), st.integers(5, 30), st.integers(0, 9), st.integers(1, 4))
def test_no_patient_is_on_two_sides_and_every_case_is_tested_once(count, people, seed, scans):
    patients = {f"c{p}_{s}": f"p{p}" for p in range(people) for s in range(scans)}
    folds = patient_folds(patients, count, seed=seed)
    assert sorted(case for fold in folds for case in fold.test) == sorted(patients)
    for fold in folds:
        sides = [{patients[c] for c in side} for side in (fold.training, fold.selection, fold.test)]
        assert not sides[0] & sides[1]
        assert not (sides[0] | sides[1]) & sides[2]
        assert sum(map(len, (fold.training, fold.selection, fold.test))) == len(patients)


def test_strata_are_spread_evenly():
    patients = {f"c{n}": f"p{n}" for n in range(25)}
    strata = {f"c{n}": "rare" if n < 5 else "common" for n in range(25)}
    for fold in patient_folds(patients, 5, seed=1, strata=strata):
        assert [strata[case] for case in fold.test].count("rare") == 1


def test_the_same_seed_parts_alike_and_comes_back_from_its_file(tmp_path):
    patients = {f"c{n}": f"p{n // 2}" for n in range(20)}
    folds = patient_folds(patients, 3, seed=4)
    assert folds == patient_folds(patients, 3, seed=4)
    assert folds != patient_folds(patients, 3, seed=5)
    save_folds(folds, tmp_path / "folds.json")
    assert read_folds(tmp_path / "folds.json") == folds


def test_a_file_with_a_test_case_among_those_to_choose_by_is_refused(tmp_path):
    path = tmp_path / "folds.json"
    save_folds(patient_folds({f"c{n}": f"p{n}" for n in range(6)}, 2, seed=0), path)
    document = json.loads(path.read_text())
    document["folds"][1]["selection"].append(document["folds"][1]["test"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(FoldsError, match=r"fold 1 has c\d on two sides"):
        read_folds(path)
    path.write_text("{")
    with pytest.raises(FoldsError, match="cannot be read as folds"):
        read_folds(path)


def test_too_few_patients_are_refused():
    with pytest.raises(FoldsError, match="2 patients cannot make 3 folds"):
        patient_folds({"a": "p1", "b": "p2", "c": "p2"}, 3, seed=0)
