"""Run a batch: each case in a worker, on the worker's own device or share of the cores."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pasta import __version__
from pasta.batch.cases import Case
from pasta.batch.folder import BatchFolder
from pasta.casework import TASKS, done_tasks, write_results
from pasta.errors import CheckpointError, OutputError, PastaError
from pasta.inference.pipeline import Pipeline
from pasta.io import read_volume
from pasta.labels import organ_named
from pasta.networks.checkpoint import find_models
from pasta.store.facts import stat_of
from pasta.workers import mapped, worker_number

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY_BYTES = 6 * 2**30  # for each worker on a CPU: the aim for one large CT is 4 GB
Told = Callable[["Outcome"], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the results of a batch.

    Attributes:
        tasks: of `pasta.casework.TASKS`.
        organs: restrict to these; empty for all.
        models: folder of models; None for those shipped.
        overlap: of sliding windows.
        mirror: average eight flips.
        pictures: also write `overview.png` and the mask as `.seg.nrrd`.
    """

    tasks: tuple[str, ...] = TASKS
    organs: tuple[str, ...] = ()
    models: Path | None = None
    overlap: float = 0.5
    mirror: bool = False
    pictures: bool = False

    def document(self) -> dict[str, Any]:
        """Build the JSON document: what was asked for and which weights answer.

        Raises:
            CheckpointError: if weights of a task are missing.
            LabelError: if an organ is unknown.
        """
        for organ in self.organs:
            organ_named(organ)
        models = find_models(self.models)
        needs = {"report": models.attributes, "screening": models.screening}
        wanted = [models.segmentation, *(needs[task] for task in needs if task in self.tasks)]
        if not all(wanted):
            msg = (
                "weights are missing for these tasks: import some with `pasta weights import`, "
                "or point --models at a folder of models."
            )
            raise CheckpointError(msg)
        used = [models.segmentation, models.attributes, *models.screening.values()]
        weights = {model.spec.name: model.provenance()["weights_sha256"] for model in used if model}
        asked = {key: value for key, value in asdict(self).items() if key != "models"}
        return {**asked, "weights": weights, "version": __version__}


@dataclass(frozen=True, slots=True)
class Errand:
    """One case as it is sent to a worker.

    Attributes:
        case: to do.
        settings: of the batch.
        fingerprint: of the settings.
        folder: of the batch, absolute.
        devices: names by number of the worker; one for all where a cluster decides.
        threads: of PyTorch on a CPU; 0 leaves it as it is.
    """

    case: Case
    settings: Settings
    fingerprint: str
    folder: Path
    devices: tuple[str, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: `reason` is empty where it is done."""

    case: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers of cases: done before this start, done now, and those that failed with the reason."""

    before: int
    done: int
    failed: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Workplace:
    """How a machine is shared out.

    Attributes:
        workers: processes.
        devices: names by number of the worker.
        threads: for each worker on a CPU.
    """

    workers: int
    devices: tuple[str, ...]
    threads: int


def shared_out(workers: int | None, device: str = "auto") -> Workplace:
    """Share the devices of this machine out: one worker for each GPU, else the cores among workers.

    Args:
        workers: None takes as many as there are GPUs; on a CPU one for two cores, as long as there
            are 6 GB of memory for each.
        device: "auto", "cpu", "cuda" for all GPUs or "cuda:N" for one.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus:
        return Workplace(workers or gpus, tuple(f"cuda:{n}" for n in range(gpus)), 0)
    if device not in ("auto", "cpu"):
        return Workplace(workers or 1, (device,), 0)
    cores = len(os.sched_getaffinity(0))
    fitting = max(1, min(cores // 2, _free_bytes() // MEMORY_BYTES))
    count = fitting if workers is None else max(1, workers)
    return Workplace(count, ("cpu",), max(1, cores // count))


def run_batch(
    cases: Sequence[Case],
    output: Path,
    settings: Settings,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    begun: Callable[[int], None] | None = None,
    told: Told | None = None,
) -> Summary:
    """Do all cases that are not done; failures are written down and the others go on.

    Args:
        cases: from `find_cases`.
        output: folder of the batch.
        settings: of the batch.
        scheduler: address of a Dask scheduler whose workers see the same files by the same paths.
        workers: processes on this machine, see `shared_out`; 0 works in this process.
        device: see `shared_out`; workers of a cluster take it as it is.
        overwrite: go on in a folder that holds a batch of other settings.
        begun: called once with how many cases are done already.
        told: called with each outcome as it comes.

    Raises:
        CheckpointError, LabelError: as `Settings.document`.
        OutputError: if the folder holds a batch of other settings, another batch works in it, or it
            cannot be written: then no case can go on.
        WorkerError: if the scheduler does not answer.
    """
    folder = BatchFolder(output.absolute())
    document = settings.document()
    with folder.held():
        fingerprint = folder.settle(document, overwrite=overwrite)
        left = [case for case in cases if not folder.done(case.id, fingerprint, _stat(case.path))]
        before = len(cases) - len(left)
        if begun:
            begun(before)
        place = shared_out(workers, device) if scheduler is None else Workplace(0, (device,), 0)
        errands = [
            Errand(case, settings, fingerprint, folder.path, place.devices, place.threads)
            for case in left
        ]
        outcomes = mapped(
            done_case,
            errands,
            scheduler=scheduler,
            workers=0 if workers == 0 else place.workers,
            on_death=killed,
        )
        done = 0
        failed: list[Outcome] = []
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.reason:
                    failed.append(outcome)
                else:
                    done += 1
                if told:
                    told(outcome)
    return Summary(before, done, tuple(sorted(failed, key=lambda outcome: outcome.case)))


def done_case(errand: Errand) -> Outcome:
    """Do one case and write its files, or write down why it failed.

    Raises:
        OutputError: if nothing can be written.
    """
    case, settings, start = errand.case, errand.settings, time.monotonic()
    folder = BatchFolder(errand.folder)
    stat = _stat(case.path)
    try:
        if errand.threads:
            torch.set_num_threads(errand.threads)
        number = worker_number() or 0
        device = errand.devices[number % len(errand.devices)]
        pipeline = _pipeline(settings.models, device, settings.overlap, settings.mirror)
        volume = read_volume(case.path)
        results = done_tasks(pipeline, volume, settings.tasks, settings.organs or None)
        seconds = round(time.monotonic() - start, 3)
        folder.write_case(
            case.id,
            {
                "case": case.id,
                "settings": errand.fingerprint,
                "stat": stat,
                "input_sha256": volume.sha256,
                "seconds": seconds,
                "device": device,
            },
            lambda part: write_results(
                part,
                volume,
                results.labelmap,
                results.documents,
                pictures=settings.pictures,
            ),
        )
    except OutputError:
        raise  # the disk is full: so it is for all others
    except PastaError as error:
        return _failed(errand, str(error), start)
    except Exception as error:  # noqa: BLE001 - one CT must not stop thousands; the kind is said
        return _failed(errand, f"unforeseen {type(error).__name__}: {_one_line(error)}", start)
    return Outcome(case.id, "", seconds)


def killed(errand: Errand) -> Outcome:
    """Write down that a case killed its worker each time."""
    reason = "its worker died each time, perhaps for lack of memory. Try fewer --workers."
    return _failed(errand, reason, time.monotonic())


def _failed(errand: Errand, reason: str, start: float) -> Outcome:
    outcome = Outcome(errand.case.id, reason, round(time.monotonic() - start, 3))
    BatchFolder(errand.folder).write_failure(
        outcome.case, {"case": outcome.case, "reason": reason, "seconds": outcome.seconds}
    )
    return outcome


@functools.lru_cache(maxsize=1)
def _pipeline(models: Path | None, device: str, overlap: float, mirror: bool) -> Pipeline:
    return Pipeline(find_models(models), device=device, overlap=overlap, mirror=mirror)


def _stat(path: Path) -> list[int] | None:
    """Size and time of a CT; None where it is not there."""
    with contextlib.suppress(OSError):
        return stat_of(path)
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _free_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return MEMORY_BYTES
