import os
import subprocess
import sys

import numpy as np
import pytest

from pasta.errors import OutputError
from pasta.geometry import Volume
from pasta.io import read_labelmap, write_labelmap
from pasta.io.files import atomic_file

WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from pasta.errors import OutputError
from pasta.geometry import Volume
from pasta.io import write_image, write_labelmap

path = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 25, (64, 64, 64)).astype(np.uint8)
volume = Volume(noise, np.eye(4))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_labelmap(volume, path)
except OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.seg.nrrd"])
def test_a_disk_that_runs_full_leaves_the_old_file_and_nothing_else(tmp_path, name):
    path = tmp_path / name
    write_labelmap(Volume(np.full((4, 4, 4), 3, np.uint8), np.eye(4)), path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert str(path) in done.stdout
    assert "cannot be written" in done.stdout
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == before
    assert (read_labelmap(path).voxels == 3).all()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    path = tmp_path / "nowhere" / "mask.nii.gz"
    with pytest.raises(OutputError, match="No such file or directory"):
        write_labelmap(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_labelmap(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "m.nrrd")


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        write_labelmap(
            Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "out" / "m.nrrd"
        )


def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def stopped():
        with atomic_file(path) as file:
            file.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
