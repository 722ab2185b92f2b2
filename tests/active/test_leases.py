import os
import signal
import subprocess
import sys
import threading

import pytest

from pasta.active import Leases
from pasta.errors import StoreError

IMAGES = [f"case-{n}" for n in range(6)]
# asks for a case, enters it into a folder that only one process may enter, leaves, gives it back
CLIENT = """
import os, sys
from pathlib import Path
from pasta.active import Leases
folder, reader = Path(sys.argv[1]), sys.argv[2]
leases = Leases(folder)
images = [f"case-{n}" for n in range(3)]
for turn in range(200):
    lease, _ = leases.take(images[turn % 3:] + images[: turn % 3], reader)
    mark = folder / f"{lease.image}.inside"
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    mark.unlink()
    assert leases.release(lease.image, reader)
"""


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def leases(tmp_path, clock):
    return Leases(tmp_path, seconds=60, now=lambda: clock[0])


def test_two_processes_asking_200_times_never_hold_one_case(tmp_path):
    running = [
        subprocess.Popen([sys.executable, "-c", CLIENT, tmp_path, reader], stderr=subprocess.PIPE)
        for reader in ("anna", "ben")
    ]
    for process in running:
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors.decode()


def test_threads_share_out_all_cases(leases):
    taken = []
    ask = lambda n: taken.append(leases.take(IMAGES, f"reader-{n}")[0].image)
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == IMAGES


def test_a_lease_outlives_its_process(tmp_path):
    code = (
        "import os, sys, signal; from pathlib import Path; from pasta.active import Leases;"
        "Leases(Path(sys.argv[1])).take(['a', 'b'], 'anna'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Leases(tmp_path).take(["a", "b"], "ben")[0].image == "b"


def test_a_lease_runs_out_unless_it_is_renewed(leases, clock):
    leases.take(["a"], "anna")
    leases.take(["b"], "anna")
    clock[0] += 50
    leases.renew("a", "anna")
    clock[0] += 50
    assert leases.take(["a", "b"], "ben")[0].image == "b"


def test_a_case_of_another_reader_is_not_renewed(leases):
    leases.take(["a"], "anna")
    assert leases.renew("a", "ben") is None
    assert not leases.release("a", "ben")


def test_own_cases_come_again_only_when_no_other_is_left(leases):
    assert [leases.take(["a", "b"], "anna")[0].image for _ in range(3)] == ["a", "b", "a"]
    assert leases.take(["a", "b"], "ben") is None


def test_a_damaged_file_is_refused(leases, tmp_path):
    (tmp_path / "leases.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"leases\.json: damaged"):
        leases.take(["a"], "anna")
