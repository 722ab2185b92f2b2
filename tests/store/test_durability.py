import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pasta.store import Store

WRITERS = Path(__file__).with_name("writers.py")
KILLS = 200


def run_writers(*arguments):
    return subprocess.run(
        [sys.executable, str(WRITERS), *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_nothing_acknowledged_is_lost_when_writers_are_killed(store, tmp_path):
    store.grid("ct")
    log = tmp_path / "acknowledged"
    run_writers("killed", store.folder, log, KILLS)
    acknowledged = [line.split() for line in log.read_text().splitlines()]
    assert len(acknowledged) >= KILLS / 2 - 5  # they did write
    after = Store(store.folder)
    for reader, version, sha256 in acknowledged:
        record = {r.version: r for r in after.history("ct", "final", reader)}[int(version)]
        assert record.sha256 == sha256
        assert hashlib.sha256(after.label_path(record).read_bytes()).hexdigest() == sha256
    newest = {}
    for reader, version, _ in acknowledged:
        newest[reader] = max(newest.get(reader, 0), int(version))
    for reader, version in newest.items():
        assert after.label("ct", "final", reader).version >= version


def test_two_processes_writing_sixty_labels_each_keep_all(store):
    store.grid("ct")
    run_writers("two", store.folder, 60)
    expected = {(f"writer{n}-{i}", i) for n in range(2) for i in range(60)}
    for reader in (store, Store(store.folder)):
        assert {(r.reader, r.info["seconds"]) for r in reader.labels("ct")} == expected
    store.refresh()  # from the records alone
    assert len(store.labels("ct")) == 120


@pytest.mark.parametrize(
    "content", [b"", b'{"schema": "pasta-aid/store-index/1", "lab', b"\x00" * 99]
)
def test_a_damaged_index_is_rebuilt_and_kept_aside(store, content):
    voxels = label_of(store)
    saved = store.save_label("ct", voxels, tag="final", reader="ann", info={"minutes": 4})
    store.update_image_info("ct", {"difficulty": "hard"})
    (store.private / "index.json").write_bytes(content)
    for again in (store, Store(store.folder)):
        assert again.labels("ct") == [saved]
        assert again.image_info("ct")["difficulty"] == "hard"
    aside = list(store.private.glob("index.damaged-*.json"))
    assert [path.read_bytes() for path in aside] == [content]
    assert "rebuilt" in aside[0].with_suffix(".txt").read_text()


def test_a_full_disk_leaves_the_label_as_it_was(store):
    old = store.save_label("ct", label_of(store), tag="final", reader="ann")
    content = store.label_path(old).read_bytes()
    before = sorted(store.private.rglob("*"))
    output = run_writers("starved", store.folder, 512).stdout
    assert output.startswith("OutputError: ")
    assert "Free space" in output
    assert store.label("ct", "final", "ann") == old
    assert store.label_path(old).read_bytes() == content
    assert sorted(store.private.rglob("*")) == before
    assert store.save_label("ct", label_of(store), tag="final", reader="ann").version == 2


def test_a_full_disk_during_the_record_loses_no_earlier_version(store):
    old = store.save_label("ct", label_of(store), tag="final", reader="ann")
    # the label of 8 kB fits, the record of 500 bytes does too, the index of all labels does not
    for number in range(20):
        store.save_label("ct", label_of(store), tag="final", reader=f"other{number}")
    run_writers("starved", store.folder, 7000)
    again = Store(store.folder)
    assert old in again.history("ct", "final", "ann")
    assert again.label("ct", "final", "ann").version in (1, 2)
    assert len(again.labels("ct")) == 21


def label_of(store):
    import numpy as np

    from pasta.geometry import Volume

    grid = store.grid("ct")
    return Volume(np.ones(grid.shape, np.uint8), grid.affine)
