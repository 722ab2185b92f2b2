import numpy as np
import pytest

from pasta.evaluation.review import review_queue
from pasta.geometry import Volume


@pytest.fixture
def draw(store, save_ct):
    def draw(image, tag, reader, rows):
        if image not in store.images():
            save_ct(store.folder / f"{image}.nii.gz", seed=len(store.images()))
            store.refresh()
        grid = store.grid(image)
        voxels = np.zeros(grid.shape, np.uint8)
        voxels[rows, 4:12, 4:12] = 2
        store.save_label(image, Volume(voxels, grid.affine), tag=tag, reader=reader)

    return draw


def test_cases_come_by_how_far_model_and_reader_disagree(store, draw):
    for image, rows in (("same", slice(4, 12)), ("half", slice(8, 16)), ("none", slice(12, 20))):
        draw(image, "original", "pasta_segmentation", slice(4, 12))
        draw(image, "final", "ann", rows)
    queue = review_queue(store)
    assert [pair.image for pair in queue] == ["none", "half", "same"]
    assert [pair.disagreement for pair in queue] == pytest.approx([1, 0.5, 0])


def test_two_readers_are_compared_and_others_left_out(store, draw):
    for reader in ("ann", "bob", "eve"):
        draw("ct", "final", reader, slice(4, 12))
    (pair,) = review_queue(store, readers=["ann", "bob"])
    assert (pair.one[1], pair.other[1]) == ("ann", "bob")


def test_a_new_version_counts_at_once(store, draw):
    draw("ct", "original", "pasta_segmentation", slice(4, 12))
    draw("ct", "final", "ann", slice(4, 12))
    assert review_queue(store)[0].disagreement == 0
    draw("ct", "final", "ann", slice(12, 20))
    assert review_queue(store)[0].disagreement == 1


def test_scores_outlive_the_labels_files(store, draw):
    draw("ct", "original", "pasta_segmentation", slice(4, 12))
    draw("ct", "final", "ann", slice(8, 16))
    before = review_queue(store)[0].document()
    for record in store.labels():
        store.label_path(record).unlink()
    assert review_queue(store)[0].document() == before  # read from what was kept


def test_a_label_that_cannot_be_read_comes_first_with_the_reason(store, draw):
    draw("ct", "original", "pasta_segmentation", slice(4, 12))
    draw("ct", "final", "ann", slice(4, 12))
    store.label_path(store.label("ct", "final", "ann")).write_bytes(b"")
    (pair,) = review_queue(store)
    assert pair.disagreement == 1
    assert "empty" in pair.problem
