"""`pasta study` leads from an example to a locked study, and finds tampered logs."""

import json

import pytest

from pasta.cli.main import main
from pasta.study import EventLog


@pytest.fixture
def folder(tmp_path, capsys):
    folder = tmp_path / "study"
    assert main(["study", "new", str(folder)]) == 0
    assert "pasta study check" in capsys.readouterr().out
    return folder


def test_the_example_leads_to_a_locked_study(folder, capsys):
    assert main(["study", "check", str(folder)]) == 0
    assert "liver 360, pancreas 360, kidney 360 cases" in capsys.readouterr().out
    assert main(["study", "allocate", str(folder)]) == 0
    assert "same reader has in both arms: 0" in capsys.readouterr().out
    assert main(["study", "codes", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["J1", "J2", "S1", "S2"]
    assert "last time" in err
    assert main(["study", "lock", "--status", str(folder)]) == 1
    assert main(["study", "lock", str(folder)]) == 0
    assert main(["study", "lock", "--status", str(folder)]) == 0
    capsys.readouterr()
    with (folder / "cases.csv").open("a") as file:
        file.write("\n")
    assert main(["study", "lock", "--status", str(folder)]) == 1
    assert capsys.readouterr().out == "cases.csv was changed after the lock.\n"


def test_the_lock_holds_the_weights_that_results_name(folder):
    from pasta.networks.checkpoint import find_models

    assert main(["study", "allocate", str(folder)]) == 0
    assert main(["study", "lock", str(folder)]) == 0
    weights = json.loads((folder / "lock.json").read_text())["weights"]
    model = find_models().segmentation
    assert weights[model.spec.name] == model.spec.weights[0].sha256


def test_mistakes_are_listed_with_their_lines_and_status_1(folder, capsys):
    text = (folder / "protocol.toml").read_text().replace('task = "screen" ', 'task = "scren" ', 1)
    line = next(n for n, each in enumerate(text.splitlines(), 1) if '"scren"' in each)
    (folder / "protocol.toml").write_text(text)
    assert main(["study", "check", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert f'protocol.toml:{line}: parts[1].task: "scren" is unknown; did you mean "screen"?' in out
    assert "mistake" in err
    assert main(["study", "allocate", str(folder)]) == 2


def test_images_that_the_store_lacks_are_named(folder, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    assert main(["study", "check", str(folder), "--store", str(tmp_path / "images")]) == 1
    assert '"screening-liver-001" is not in the store' in capsys.readouterr().out


def test_nothing_that_is_there_is_written_over(folder, capsys):
    before = (folder / "study.key").read_bytes()
    assert main(["study", "new", str(folder)]) == 2
    assert "new or empty" in capsys.readouterr().err
    assert (folder / "study.key").read_bytes() == before


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "logs" / "s-1.jsonl"
    with EventLog(path, reader="J1", session_id="s-1") as log:
        for number in range(5):
            log.append("slice_scroll", {"slices": number})
    return path


def test_a_whole_log_is_verified_and_its_head_shown(log, capsys):
    head = json.loads(log.read_text().splitlines()[-1])["sha256"]
    for path in (log, log.parent):
        assert main(["study", "verify", str(path)]) == 0
        assert f"5 events  head {head}" in capsys.readouterr().out
    assert main(["study", "verify", str(log), "--head", head]) == 0


def test_the_first_broken_event_is_named_with_file_and_number(log, capsys):
    lines = log.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"slices":2', '"slices":7')
    log.write_text("".join(lines))
    for path in (log, log.parent):
        assert main(["study", "verify", str(path)]) == 1
        assert capsys.readouterr().out == "s-1.jsonl: event 3: it was changed.\n"


def test_lines_taken_off_the_end_show_by_the_head(log, capsys):
    lines = log.read_text().splitlines(keepends=True)
    head = json.loads(lines[-1])["sha256"]
    log.write_text("".join(lines[:-1]))
    assert main(["study", "verify", str(log), "--head", head]) == 1
    assert "event 5: events after it were taken off" in capsys.readouterr().out


def test_a_folder_without_logs_does_not_pass(tmp_path, capsys):
    assert main(["study", "verify", str(tmp_path)]) == 2
    assert "nothing to verify" in capsys.readouterr().err
    assert main(["study", "verify", str(tmp_path / "none")]) == 2


def test_help_answers_without_heavy_imports():
    import subprocess
    import sys

    code = (
        "import sys\nfrom pasta.cli.main import build_parser\n"
        "build_parser(['study', '--help'])\n"
        "assert not {'torch', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
