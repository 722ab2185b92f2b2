from enum import Enum

import numpy as np
import pytest

from pasta.errors import LabelError, StoreError, VolumeError
from pasta.geometry import Volume
from pasta.io import read_labelmap, write_labelmap
from pasta.store import Store, image_id_of


def label_of(store, value=1):
    grid = store.grid("ct")
    return Volume(np.full(grid.shape, value, np.uint8), grid.affine)


def test_images_with_similar_names_get_different_ids(tmp_path, save_ct):
    names = ["1.2.840.113.nii.gz", "1.2.nii.gz", "1.nii", "1.nrrd", "a/b.nii.gz", "a_b.nii.gz"]
    names += ["a b.nii.gz", "a/b.nii", "A_b.nii.gz", ".hidden.nii.gz", "b/4: CT CHEST.nii"]
    for name in names:
        path = tmp_path / name
        save_ct(path if path.suffix != ".nrrd" else path.with_suffix(".mha.nii"))
    images = Store(tmp_path).images()
    assert len(images) == len(names) - 1  # all but the hidden one
    assert {"1.2.840.113", "1.2", "a_b", "A_b"} <= set(images)
    assert all(image.path.exists() for image in images.values())


def test_ids_depend_on_the_path_alone(tmp_path, save_ct):
    save_ct(tmp_path / "b.nii")
    before = set(Store(tmp_path).images())
    save_ct(tmp_path / "b.nii.gz")
    assert before < set(Store(tmp_path).images())


def test_a_name_made_to_look_like_a_hashed_id_is_hashed_itself(tmp_path):
    from pathlib import PurePath

    hashed = image_id_of(PurePath("x/y.nii.gz"))
    assert image_id_of(PurePath(f"{hashed}.nii.gz")) != hashed


def test_a_series_folder_is_one_image(tmp_path, real_data):
    import shutil

    shutil.copytree(real_data / "dicom" / "crlm_1004", tmp_path / "case 1")
    store = Store(tmp_path)
    (image,) = store.images().values()
    assert image.kind == "series"
    assert image.id.startswith("case_1-")
    assert store.grid(image.id).shape[2] == 41
    grid = store.grid(image.id)
    labelmap = Volume(np.zeros(grid.shape, np.uint8), grid.affine)
    assert store.save_label(image.id, labelmap, tag="final", reader="ann").version == 1


def test_the_studies_folder_may_be_a_series_itself(tmp_path, real_data):
    import shutil

    shutil.copytree(real_data / "dicom" / "crlm_1004", tmp_path / "series")
    (tmp_path / "series").chmod(0o755)
    store = Store(tmp_path / "series")
    (image_id,) = store.images()
    assert store.grid(image_id).shape[2] == 41
    store.update_image_info(image_id, {"seen": True})
    store.refresh()
    assert list(store.images()) == [image_id]
    assert store.grid(image_id).shape[2] == 41  # our own hidden folder is no slice


def test_a_read_only_studies_folder_is_left_alone(tmp_path, save_ct, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    save_ct(tmp_path / "studies" / "ct.nii.gz")
    (tmp_path / "studies").chmod(0o555)
    store = Store(tmp_path / "studies")
    store.save_label("ct", label_of(store), tag="final", reader="ann")
    assert [path.name for path in (tmp_path / "studies").iterdir()] == ["ct.nii.gz"]
    assert Store(tmp_path / "studies").label("ct", "final").reader == "ann"
    (tmp_path / "studies").chmod(0o755)


def test_every_version_of_a_label_is_kept(store):
    for value in (1, 2, 3):
        store.save_label("ct", label_of(store, value), tag="final", reader="ann")
    versions = store.history("ct", "final", "ann")
    assert [record.values for record in versions] == [(1,), (2,), (3,)]
    for record in versions:
        assert set(np.unique(read_labelmap(store.label_path(record)).voxels)) == set(record.values)
    assert store.label("ct", "final").version == 3


def test_readers_and_tags_do_not_overwrite_one_another(store):
    for tag in ("final", "original"):
        for reader in ("ann", "bob"):
            store.save_label("ct", label_of(store), tag=tag, reader=reader)
    assert len(store.labels("ct")) == 4
    assert store.label("ct", "final").reader == "bob"  # the newest
    assert store.label("ct", "final", "ann").reader == "ann"
    assert store.status() == {
        "total": 1,
        "completed": 1,
        "label_tags": {"final": 2, "original": 2},
    }


def test_a_withdrawn_label_keeps_its_versions_and_numbers_go_on(store):
    store.save_label("ct", label_of(store), tag="final", reader="ann")
    store.remove_label("ct", "final", "ann")
    with pytest.raises(StoreError, match="no label 'final'"):
        store.label("ct", "final")
    assert Store(store.folder).labels() == []
    assert store.save_label("ct", label_of(store), tag="final", reader="ann").version == 3
    assert [r.withdrawn for r in store.history("ct", "final", "ann")] == [False, True, False]


def test_a_label_on_another_grid_is_refused(store, tmp_path):
    grid = store.grid("ct")
    moved = grid.affine.copy()
    moved[0, 3] += 1.0
    for label in (
        Volume(np.ones((2, 3, 4), np.uint8), grid.affine),
        Volume(np.ones(grid.shape, np.uint8), moved),
    ):
        with pytest.raises(LabelError, match=r"grid|shape|lie"):
            store.save_label("ct", label, tag="final", reader="ann")
        write_labelmap(label, tmp_path / "label.nii.gz")
        with pytest.raises(LabelError):
            store.save_label("ct", tmp_path / "label.nii.gz", tag="final", reader="ann")
    assert store.labels() == []
    assert not list(store.private.rglob("incoming-*"))


def test_a_label_value_beyond_the_table_is_refused(store, tmp_path):
    write_labelmap(label_of(store, 26), tmp_path / "label.nii.gz")
    with pytest.raises(LabelError, match="26"):
        store.save_label("ct", tmp_path / "label.nii.gz", tag="final", reader="ann")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", ".hidden", "a\0b", "x" * 200, None, 3]
)
def test_names_that_are_paths_are_refused(store, name):
    label = label_of(store)
    with pytest.raises(StoreError):
        store.save_label("ct", label, tag=name, reader="ann")
    with pytest.raises(StoreError):
        store.save_label("ct", label, tag="final", reader=name)
    with pytest.raises(StoreError):
        store.image(name)


def test_an_upload_is_checked_before_it_is_accepted(store, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"not an image")
    with pytest.raises(VolumeError):
        store.add_image(tmp_path / "bad.nii.gz")
    assert list(store.images()) == ["ct"]
    assert [path.name for path in (store.private / "images").iterdir()] == []


def test_an_upload_never_replaces_another_image(store, tmp_path, save_ct):
    first = save_ct(tmp_path / "1.2.840.113.nii.gz", seed=1)
    second = save_ct(tmp_path / "1.9.9.9.nii.gz", seed=2)
    ids = [store.add_image(first), store.add_image(second)]
    assert ids == ["1.2.840.113", "1.9.9.9"]
    assert store.add_image(first) == ids[0]  # the same bytes again
    with pytest.raises(StoreError, match="taken"):
        store.add_image(second, wanted=ids[0])
    with pytest.raises(StoreError, match="taken"):
        store.add_image(second, wanted="ct")
    assert store.image(ids[0]).path.read_bytes() == first.read_bytes()


def test_a_file_with_the_name_of_an_upload_gets_another_id(store, tmp_path, save_ct):
    uploaded = store.add_image(save_ct(tmp_path / "x.nii.gz", seed=1))
    save_ct(store.folder / "x.nii.gz", seed=2)
    store.refresh()
    assert uploaded == "x"
    assert store.image("x").kind == "upload"
    assert len(store.images()) == 3


def test_an_odd_upload_name_becomes_an_id(store, tmp_path, save_ct):
    image_id = store.add_image(save_ct(tmp_path / "x.nii.gz"), wanted="4: CT CHEST/ABD")
    assert image_id.startswith("4_CT_CHEST_ABD-")
    for wanted in ("../x", "/etc/x", "a/../../x", "..\\x"):
        with pytest.raises(StoreError, match="looks like a path"):
            store.add_image(tmp_path / "x.nii.gz", wanted=wanted)


def test_a_removed_upload_is_kept_aside_with_its_labels(store, tmp_path, save_ct):
    image_id = store.add_image(save_ct(tmp_path / "x.nii.gz"))
    grid = store.grid(image_id)
    label = Volume(np.ones(grid.shape, np.uint8), grid.affine)
    store.save_label(image_id, label, tag="final", reader="ann")
    store.remove_image(image_id)
    assert list(store.images()) == ["ct"]
    assert store.labels() == []
    assert len(list((store.private / "removed").rglob("*.nii.gz"))) == 2
    with pytest.raises(StoreError, match="studies folder"):
        store.remove_image("ct")


def test_metadata_merges_instead_of_replacing(store):
    other = Store(store.folder)
    store.save_label("ct", label_of(store), tag="final", reader="ann", info={"minutes": 3})
    store.update_image_info("ct", {"a": 1})
    other.update_image_info("ct", {"b": 2})
    other.update_label_info("ct", "final", "ann", {"approved": True})
    assert store.image_info("ct") == {"a": 1, "b": 2, "id": "ct", "kind": "file"}
    assert store.label("ct", "final").info == {"minutes": 3, "approved": True}


def test_a_replaced_image_gets_its_new_grid(store, save_ct):
    assert store.grid("ct").shape == (24, 20, 16)
    save_ct(store.folder / "ct.nii.gz", shape=(10, 11, 12))
    assert store.grid("ct").shape == (10, 11, 12)


def test_a_new_file_is_found_without_a_restart(store, save_ct):
    store.images()
    save_ct(store.folder / "new.nii.gz")
    assert store.image("new").kind == "file"


class StockTag(str, Enum):  # noqa: UP042 - as MONAI Label writes its tags
    ORIGINAL = "original"


def test_a_tag_of_monai_labels_enum_is_the_string_it_stands_for(store):
    record = store.save_label("ct", label_of(store), tag=StockTag.ORIGINAL, reader="model")
    assert store.label_path(record).is_file()
    assert store.label_path(store.label("ct", "original", "model")).is_file()
    assert store.label_path(Store(store.folder).label("ct", "original", "model")).is_file()
