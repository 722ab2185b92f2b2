import socket
import time

import pydicom
import pytest
from pynetdicom import AE

from pasta.dicom.receiver import Receiver
from pasta.errors import OutputError
from pasta.io import read_volume
from pasta.store import Store

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def receiver(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Receiver(tmp_path / "studies", callers=("SCANNER",), quiet_seconds=0.4)
    running.start(port)
    running.port = port
    yield running
    running.stop()


def send(receiver, paths, title="SCANNER"):
    """Send files as a scanner does; statuses, None where the association is refused."""
    ae = AE(ae_title=title)
    ae.add_requested_context(CT)
    association = ae.associate("127.0.0.1", receiver.port, ae_title="PASTA")
    if not association.is_established:
        return None
    statuses = [association.send_c_store(pydicom.dcmread(path)).Status for path in paths]
    association.release()
    return statuses


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def test_a_series_that_is_sent_becomes_an_image_of_the_store(receiver, small_slices, tmp_path):
    paths = sorted(small_slices.glob("*.dcm"))
    assert send(receiver, paths) == [0] * len(paths)
    store = Store(tmp_path / "studies")
    wait_for(lambda: store.images(look_again=True))
    (image,) = store.images().values()
    assert image.id.startswith("ct-")
    assert (read_volume(image.path).voxels == read_volume(small_slices).voxels).all()


def test_images_sent_twice_or_late_belong_to_the_same_series(receiver, small_slices, tmp_path):
    paths = sorted(small_slices.glob("*.dcm"))
    send(receiver, paths[:8])
    store = Store(tmp_path / "studies")
    wait_for(lambda: store.images(look_again=True))
    send(receiver, paths[6:])
    (image,) = store.images().values()
    wait_for(lambda: len(list(image.path.iterdir())) == len(paths))
    assert read_volume(image.path).voxels.shape[2] == len(paths)


def test_what_is_no_whole_volume_is_kept_apart(receiver, small_slices, tmp_path):
    paths = sorted(small_slices.glob("*.dcm"))
    send(receiver, [paths[0], paths[1], paths[9]])
    time.sleep(1.5)
    assert Store(tmp_path / "studies").images() == {}
    waiting = tmp_path / "studies" / ".pasta" / "received"
    assert len(list(waiting.glob("ct-*/*.dcm"))) == 3
    send(receiver, paths[2:9] + paths[10:])  # the rest comes after all
    store = Store(tmp_path / "studies")
    wait_for(lambda: store.images(look_again=True))


def test_only_the_stations_named_may_send(receiver, small_slices):
    assert send(receiver, sorted(small_slices.glob("*.dcm"))[:1], title="STRANGER") is None


def test_a_port_that_is_taken_is_named(receiver, tmp_path):
    with pytest.raises(OutputError, match=f"port {receiver.port}"):
        Receiver(tmp_path / "other").start(receiver.port)
