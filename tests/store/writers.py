"""Writers that the durability tests start, kill and starve; run as a script in its own process.

Imports take a second, a fork takes a millisecond: one process imports, its children write.
"""

import os
import random
import resource
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pasta.geometry import Volume
from pasta.store import Store


def labelmap(store: Store, value: int) -> Volume:
    grid = store.grid("ct")
    voxels = np.random.default_rng(value).integers(0, 26, grid.shape, dtype=np.uint8)
    return Volume(voxels, grid.affine)


def save_for_ever(folder: Path, acknowledged: int, seed: int) -> None:
    store = Store(folder)
    chance = random.Random(seed)
    while True:
        reader = f"reader{chance.randrange(3)}"
        record = store.save_label(
            "ct", labelmap(store, chance.randrange(1 << 20)), tag="final", reader=reader
        )
        os.write(acknowledged, f"{record.reader} {record.version} {record.sha256}\n".encode())


def killed(folder: Path, log: Path, times: int) -> None:
    """Start a writer, kill it at a random moment, `times` times; log what it acknowledged."""
    chance = random.Random(1)
    with log.open("wb") as acknowledged:
        for seed in range(times):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                save_for_ever(folder, writing, seed)
            os.close(writing)
            if seed % 2:  # half of them once they have saved something, however slow the disk is
                select.select([reading], [], [], 10)
            time.sleep(chance.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WTERMSIG(status) != signal.SIGKILL:
                sys.exit(f"writer {seed} ended by itself")
            with os.fdopen(reading, "rb") as pipe:
                acknowledged.write(pipe.read())


def two(folder: Path, count: int) -> None:
    """Two processes write `count` labels each, at the same time."""
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            store = Store(folder)
            for index in range(count):
                store.save_label(
                    "ct",
                    labelmap(store, index),
                    tag="final",
                    reader=f"writer{number}-{index}",
                    info={"seconds": index},
                )
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a writer failed")


def starved(folder: Path, limit: int) -> None:
    """Save a label with room for `limit` bytes a file only; print the error."""
    store = Store(folder)
    label = labelmap(store, 7)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # EFBIG instead, as a full disk gives ENOSPC
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        store.save_label("ct", label, tag="final", reader="ann")
    except OSError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    if sys.argv[1] == "killed":
        killed(folder, Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "two":
        two(folder, int(sys.argv[3]))
    else:
        starved(folder, int(sys.argv[3]))
