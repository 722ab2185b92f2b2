import io
import json
import time

import nibabel as nib
import numpy as np
import pytest

from pasta.store import Store


def test_the_review_queue_puts_the_case_with_most_disagreement_first(server):
    store = Store(server.studies)
    grid = store.grid("ct")
    for reader, rows in (("near", slice(10, 20)), ("far", slice(20, 30)), ("base", slice(10, 20))):
        voxels = np.zeros(grid.shape, np.uint8)
        voxels[rows, 10:20, 10:20] = 2
        data = nib.Nifti1Image(voxels, grid.affine).to_bytes()
        answer = server.request(
            "PUT",
            "/datastore/label?image=ct&tag=review",
            data={"params": json.dumps({"reader": reader})},
            files={"label": ("label.nii", io.BytesIO(data))},
        )
        assert answer.status_code == 200, answer.text
    document = server.request("GET", "/pasta/review?tag=review").json()
    assert document["total"] == 3
    pairs = [
        ({p["one"]["reader"], p["other"]["reader"]}, p["disagreement"]) for p in document["queue"]
    ]
    assert pairs[-1] == ({"near", "base"}, 0.0)
    assert {value for _, value in pairs[:2]} == {1.0}
    few = server.request("GET", "/pasta/review?tag=review&reader=near&reader=base").json()
    assert few["total"] == 1


def test_the_scoring_method_is_offered(server):
    assert "disagreement" in server.request("GET", "/info/").json()["scoring"]


def batch_until_done(server, tag, **more):
    """Run a batch; give its record once MONAI Label's task has ended."""
    answer = server.request(
        "POST", "/batch/infer/pasta_screening", json={"label_tag": tag, "device": "cpu", **more}
    )
    assert answer.status_code == 200, answer.text
    for _ in range(240):
        state = server.request("GET", "/batch/infer/?check_if_running=true")
        found = server.request("GET", "/pasta/batches").json()["batches"]
        record = next((r for r in found if r["label_tag"] == tag), None)
        if state.status_code == 404 and record and record["percent"] == 100:
            return record
        time.sleep(0.5)
    pytest.fail(f"the batch did not end: {record}")


def test_a_batch_tells_how_far_it_is_and_passes_over_what_is_done(server):
    first = batch_until_done(server, "batch", max_batch_size=1)
    assert (first["total"], first["done"], first["skipped"], first["failed"]) == (1, 1, 0, {})
    again = batch_until_done(server, "batch", max_batch_size=1, resume=True)
    assert (again["done"], again["skipped"]) == (1, 1)
