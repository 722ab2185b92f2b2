import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from pasta.batch.cases import find_cases
from pasta.batch.folder import BatchFolder
from pasta.batch.running import Settings, run_batch, shared_out
from pasta.batch.tables import write_tables
from pasta.cli.main import main
from pasta.errors import OutputError, VolumeError

REPOSITORY = Path(__file__).resolve().parents[2]
OF_THE_CLOCK = ("seconds", "created")  # columns that no two runs share
KILLS = 5


def command(cts, output, models, *more):
    words = [sys.executable, "-m", "pasta.cli.main", "batch", cts, "-o", output, "--models", models]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [str(word) for word in (*words, "--workers", "0", *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def rows_of(output):
    rows = pq.read_table(output / "results.parquet").to_pylist()
    return [{key: row[key] for key in row if key not in OF_THE_CLOCK} for row in rows]


def test_a_corrupt_ct_is_listed_with_its_reason_and_the_others_are_done(finished):
    output, summary = finished
    assert (summary.before, summary.done) == (0, 6)
    assert [outcome.case for outcome in summary.failed] == ["case-1b"]
    assert "truncated" in summary.failed[0].reason
    assert "case-1b" in (output / "failures.csv").read_text()
    failed = [row for row in rows_of(output) if row["status"] == "failed"]
    assert [row["case"] for row in failed] == ["case-1b"]


def test_the_table_says_of_each_organ_what_mask_and_documents_say(finished):
    output, _ = finished
    rows = [row for row in rows_of(output) if row["case"] == "case-2"]
    mask = nib.load(output / "cases" / "case-2" / "mask.nii.gz")
    liver = next(row for row in rows if row["structure"] == "liver")
    voxel_ml = np.prod(mask.header.get_zooms()) / 1000
    assert liver["volume_ml"] == pytest.approx(np.sum(np.asarray(mask.dataobj) == 2) * voxel_ml)
    screening = json.loads((output / "cases" / "case-2" / "screening.json").read_text())
    assert liver["probability"] == screening["organs"][0]["probability"]
    assert liver["input_sha256"] == screening["input_sha256"]
    assert screening["model"][0]["weights_sha256"][0] in liver["models"]


def test_a_batch_killed_at_random_ends_with_the_table_of_one_that_was_not(
    finished, cts, small_models, tmp_path
):
    rng = np.random.default_rng(5)
    kept: dict[str, tuple[int, int]] = {}
    kills = 0
    while kills < KILLS:
        running = command(cts, tmp_path, small_models)
        _wait_for_work(running, tmp_path)
        time.sleep(float(rng.uniform(0, 0.25)))
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
        kills += 1
        running.wait()
        running.stdout.close()
        for case in (tmp_path / "cases").glob("case-*"):
            stat = (case / "mask.nii.gz").stat()  # whole: each has all its files
            assert {path.name for path in case.iterdir()} == {
                "mask.nii.gz", "report.json", "report.txt", "screening.json", "case.json",
            }  # fmt: skip
            now = (stat.st_ino, stat.st_mtime_ns)
            assert kept.setdefault(case.name, now) == now, "a finished case was done again"
    last = command(cts, tmp_path, small_models)
    printed, _ = last.communicate(timeout=240)
    assert last.returncode == 1, printed
    assert rows_of(tmp_path) == rows_of(finished[0])
    assert not list((tmp_path / "cases").glob(".*"))
    assert kept  # some were done before the last start


def _wait_for_work(running, output):
    """Wait until cases are being done, as before that there is nothing to break."""
    seen = len(list((output / "cases").glob("case-*")))
    for _ in range(600):
        folders = list((output / "cases").glob("[.c]*"))
        if running.poll() is not None or len(folders) > min(seen, 5):
            return
        time.sleep(0.05)


def test_ctrl_c_leaves_tables_of_what_is_done(cts, small_models, tmp_path):
    running = command(cts, tmp_path, small_models)
    _wait_for_work(running, tmp_path)
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 130, printed
    assert "goes on from here" in printed
    done = {path.name for path in (tmp_path / "cases").glob("case-*")}
    told = {row["case"] for row in rows_of(tmp_path) if row["status"] == "done"}
    assert told == done


def test_a_case_without_its_mark_is_not_done(finished, cts, small_models, tmp_path):
    cases = find_cases(cts)[:1]
    settings = Settings(models=small_models)
    run_batch(cases, tmp_path, settings, workers=0)
    (tmp_path / "cases" / "case-0" / "case.json").unlink()
    assert run_batch(cases, tmp_path, settings, workers=0).done == 1


def test_other_settings_are_refused_until_overwrite(cts, small_models, tmp_path):
    cases = find_cases(cts)[:1]
    run_batch(cases, tmp_path, Settings(models=small_models), workers=0)
    other = Settings(models=small_models, tasks=("segmentation",))
    with pytest.raises(OutputError, match=r"other settings \(tasks\)"):
        run_batch(cases, tmp_path, other, workers=0)
    summary = run_batch(cases, tmp_path, other, workers=0, overwrite=True)
    assert (summary.before, summary.done) == (0, 1)
    assert not (tmp_path / "cases" / "case-0" / "report.json").exists()


def test_a_second_batch_in_the_same_folder_is_refused(tmp_path):
    with (
        BatchFolder(tmp_path).held(),
        pytest.raises(OutputError, match="another batch"),
        BatchFolder(tmp_path).held(),
    ):
        pass


def test_a_list_names_the_cases_and_one_that_is_missing_fails_alone(cts, small_models, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two\n{cts / 'case-0.nii.gz'}\n\ngone.nii.gz\n")
    cases = find_cases(listed)
    assert not any(str(cts) in case.id for case in cases)
    summary = run_batch(cases, tmp_path / "out", Settings(models=small_models), workers=0)
    assert summary.done == 1
    assert [(o.case, "no such file" in o.reason) for o in summary.failed] == [("gone", True)]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="holds no CT"):
        find_cases(tmp_path)


def test_cores_are_shared_out_among_the_workers():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    try:
        cores = len(os.sched_getaffinity(0))
        place = shared_out(cores, "cpu")
        assert (place.workers, place.threads) == (cores, 1)
        assert shared_out(1, "cpu").threads == cores
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_processes_of_dask_give_the_same_table(finished, cts, small_models, tmp_path):
    pytest.importorskip("distributed")
    cases = find_cases(cts)
    run_batch(cases, tmp_path, Settings(models=small_models), workers=2)
    write_tables(BatchFolder(tmp_path), [case.id for case in cases])
    assert rows_of(tmp_path) == rows_of(finished[0])


def test_the_command_states_the_thresholds_it_was_given(finished, tmp_path, capsys):
    results = finished[0] / "results.parquet"
    words = ["batch", "worklist", results, "-o", tmp_path / "w.csv", "--threshold", "liver=0.1"]
    assert main([str(word) for word in words]) == 0
    assert "kidney 0.5, liver 0.1" in capsys.readouterr().out
