"""What is made before a case is handed out: a CT without names, and in the assisted arm the AI.

Both arms wait for it before the clock of a case starts, so no waiting confounds the reading times.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from lib.jobs import BusyError, Job
from lib.options import Options
from lib.service import Request
from lib.study.running import RefusedError
from pasta.errors import PastaError
from pasta.io import read_volume
from pasta.io.nifti import write_nifti
from pasta.store.records import read_json, write_json
from pasta.study.archive import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lib.service import Service
    from lib.study.running import RunningStudy
    from pasta.study.conduct import BlockState, Slot

_log = logging.getLogger(__name__)
_IDLE_SECONDS, _BUSY_SECONDS = 1.0, 2.0
_TRIES, _RETRY_SECONDS = 3, 30.0
_LATE_SECONDS = 300.0  # somebody may have mended it
_KEPT_IMAGES = 200  # on the disk, ready for readers; older ones are made again when needed
MASK = "segmentation"
_ORDER = ("segmentation", "screening", "report")  # the report describes that very mask


class Images:
    """CTs under a neutral name: NIfTI written anew, so that no header tells of anybody.

    Args:
        service: that knows the store.
        folder: where they are kept.
    """

    def __init__(self, service: Service, folder: Path) -> None:
        self._service, self._folder = service, folder
        self._guard = threading.Lock()
        self._sha256: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def here(self, code: str) -> bool:
        """Tell whether a CT is ready."""
        return self._path(code).is_file()

    def get(self, image: str, code: str) -> tuple[Path, str]:
        """File of a CT and SHA-256 of its bytes; made now if it is not there.

        Raises:
            StoreError: if the image is gone from the store.
            VolumeError: if it cannot be read.
            OutputError: if there is no space.
        """
        path = self._path(code)
        with self._guard:
            if not path.is_file():
                write_nifti(read_volume(self._service.store.image(image).path), path)
                self._sha256.pop(code, None)
                self._drop_oldest(path)
            path.touch()
            if code not in self._sha256:
                with path.open("rb") as file:
                    self._sha256[code] = hashlib.file_digest(file, "sha256").hexdigest()
            return path, self._sha256[code]

    def _path(self, code: str) -> Path:
        return self._folder / f"{code}.nii.gz"

    def _drop_oldest(self, new: Path) -> None:
        kept = sorted(self._folder.glob("c-*.nii.gz"), key=lambda path: path.stat().st_mtime)
        for path in kept[: max(0, len(kept) - _KEPT_IMAGES)]:
            if path != new:
                path.unlink(missing_ok=True)


class Preparation:
    """Makes in the background what the next cases of all readers need.

    Args:
        service: that runs the tasks.
        study: to prepare for.
    """

    def __init__(self, service: Service, study: RunningStudy) -> None:
        self._service, self._study = service, study
        self.images = Images(service, study.folder.path / "images")
        self._ai = study.folder.path / "ai"
        self._failed: dict[tuple[str, str, str], tuple[int, float, str]] = {}
        self._made: set[tuple[str, str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"prepare {study.id}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way."""
        self._stop.set()

    def ready(self, state: BlockState, slot: Slot) -> bool:
        """Tell whether a case can be handed out.

        Raises:
            RefusedError: 503 if it could not be prepared: it is for the coordinator to mend.
        """
        missing = list(self._missing(state, slot))
        for what in missing:
            tries, _, reason = self._failed.get((slot.code, state.block.organ, what), (0, 0, ""))
            if tries >= _TRIES:
                msg = (
                    f"{what} of case {slot.code} could not be prepared: {reason} Tell the "
                    "coordinator; nothing of your reading is lost."
                )
                raise RefusedError(msg, 503, "failed")
        return not missing

    def document(self, code: str, organ: str, task: str) -> dict[str, Any] | None:
        """The AI's document of a case; None if it is not ready."""
        return read_json(self._ai / organ / code / f"{task}.json")

    def mask(self, code: str, organ: str, task: str) -> Path | None:
        """The AI's mask of a case; None if there is none."""
        path = self._ai / organ / code / f"{task}.nii.gz"
        return path if path.is_file() else None

    def problems(self) -> list[str]:
        """Say what could not be prepared."""
        return [
            f"{what} of case {code} ({organ}) could not be prepared: {reason}"
            for (code, organ, what), (_, _, reason) in sorted(self._failed.items())
        ]

    def progress(self) -> tuple[int, int]:
        """AI results that are ready, and that the study needs."""
        needed = {
            (slot.code, state.block.organ, task)
            for state in self._study.conduct.blocks.values()
            if state.block.arm == "assisted"
            for slot in state.slots
            for task in state.part.ai
        }
        return sum(self._is_made(*key) for key in needed), len(needed)

    # --- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                state, slot, what = next(self._wanted())
            except StopIteration:
                self._stop.wait(_IDLE_SECONDS)
                continue
            except Exception:  # noqa: BLE001 - the server runs on
                _log.exception("preparing cases failed")
                self._stop.wait(_RETRY_SECONDS)
                continue
            self._make(state, slot, what)

    def _wanted(self) -> Iterator[tuple[BlockState, Slot, str]]:
        """What is missing, the most urgent first: next cases of all readers, then all AI."""
        if self._study.problems():
            return
        conduct = self._study.conduct
        readers = [reader.code for reader in self._study.folder.protocol.readers]
        live = {s.reader for s in list(conduct.sessions.values()) if s.live}
        states = [
            state
            for reader in sorted(readers, key=lambda reader: reader not in live)
            if (state := conduct.block_of(reader)) is not None
        ]
        turns = [(state, state.next_slot()) for state in states]
        turns += [(state, state.upcoming()) for state in states]
        near = [(state, slot) for state, slot in turns if slot is not None]
        for images in (True, False):  # images take no time: no reader waits for another's AI
            for state, slot in near:
                yield from (
                    (state, slot, what)
                    for what in self._open(state, slot)
                    if (what == "image") == images
                )
        for state in [*states, *conduct.blocks.values()]:
            if state.block.arm == "assisted" and not state.finished:
                for slot in state.slots:
                    if slot.code not in state.done:
                        yield from (
                            (state, slot, what)
                            for what in self._open(state, slot)
                            if what != "image"
                        )

    def _open(self, state: BlockState, slot: Slot) -> Iterator[str]:
        for what in self._missing(state, slot):
            key = (slot.code, state.block.organ, what)
            tries, at, _ = self._failed.get(key, (0, 0.0, ""))
            wait = _RETRY_SECONDS if tries < _TRIES else _LATE_SECONDS
            if tries == 0 or time.monotonic() > at + wait:
                yield what

    def _missing(self, state: BlockState, slot: Slot) -> Iterator[str]:
        if not self.images.here(slot.code):
            yield "image"
        if state.block.arm == "assisted":
            for task in sorted(state.part.ai, key=_ORDER.index):
                if not self._is_made(slot.code, state.block.organ, task):
                    yield task

    def _is_made(self, code: str, organ: str, task: str) -> bool:
        key = (code, organ, task)
        if key not in self._made and (self._ai / organ / code / f"{task}.json").is_file():
            self._made.add(key)
        return key in self._made

    def _make(self, state: BlockState, slot: Slot, what: str) -> None:
        key = (slot.code, state.block.organ, what)
        try:
            if what == "image":
                self.images.get(slot.image, slot.code)
            else:
                self._infer(slot, state.block.organ, what)
        except BusyError:
            self._stop.wait(_BUSY_SECONDS)
        except Exception as error:  # noqa: BLE001 - one case must not stop the others
            foreseen = isinstance(error, PastaError)
            reason = (
                str(error) if foreseen else f"{type(error).__name__}; the server's log says more."
            )
            if not foreseen:
                _log.exception("preparing a case failed")
            tries = self._failed.get(key, (0, 0.0, ""))[0] + 1
            self._failed[key] = tries, time.monotonic(), _detail(error) or reason
            if what != "image" and tries == 1:
                self._note({"what": what, "kind": type(error).__name__}, slot, state, failed=True)
            self._stop.wait(_BUSY_SECONDS)
        else:
            self._failed.pop(key, None)

    def _infer(self, slot: Slot, organ: str, task: str) -> None:
        """Run a task as a request would, and keep its result in the study's folder."""
        service = self._service
        folder = self._ai / organ / slot.code
        folder.mkdir(parents=True, exist_ok=True)
        mask = self.mask(slot.code, organ, MASK) if task == "report" else None
        job = Job(f"study-{slot.code}-{organ}-{task}", f"pasta_{task}")
        start = time.monotonic()
        with service.private.job() as scratch:
            request = Request(
                service.task(f"pasta_{task}"),
                Options(organs=(organ,), device=service.device, job=job.id),
                "json" if task == "report" else "all",
                slot.image,
                service.store.image(slot.image).path,
                mask,
                scratch,
            )
            answer = service.jobs.submit(job, lambda: service.run(request, job)).result()
        if answer.content is not None:
            write_file(folder / f"{task}.nii.gz", answer.content)
        write_json(folder / f"{task}.json", answer.document)  # last: it says that all is there
        payload = {
            "what": task,
            "seconds": round(time.monotonic() - start, 3),
            "models": [
                {"model": model["name"], "weights_sha256": model["weights_sha256"]}
                for model in answer.document.get("model", ())
            ],
        }
        self._study.note_ai(payload, slot.code, organ, failed=False)

    def _note(
        self, payload: dict[str, Any], slot: Slot, state: BlockState, *, failed: bool
    ) -> None:
        try:
            self._study.note_ai(payload, slot.code, state.block.organ, failed=failed)
        except PastaError as error:
            _log.warning("%s", error)


def _detail(error: Exception) -> str:
    """The sentence of an HTTP error; "" for others."""
    return str(getattr(error, "detail", ""))
