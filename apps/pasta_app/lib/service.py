"""From a request to its answer: finds the inputs, waits for the device, runs the task."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastapi import HTTPException

from lib.infers import Inputs, Outcome, PastaTask
from lib.infers.base import finite
from lib.options import Options, RequestError
from pasta.io import read_labelmap, read_volume
from pasta.store.names import stem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.jobs import Job, Jobs
    from lib.models import Models
    from lib.private import PrivateFolder
    from lib.readings import Readings
    from lib.sessions import PrivateSessions
    from pasta.geometry import Volume
    from pasta.store import Store

_log = logging.getLogger(__name__)
SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")


@dataclass(frozen=True, slots=True)
class Request:
    """One infer request, checked as far as can be without reading a file.

    Attributes:
        task: to run.
        options: checked parameters.
        output: "image", "json" or "all".
        image: id in the store, or "".
        path: of the CT.
        label: uploaded labelmap, or None.
        folder: private, gone after the answer.
    """

    task: PastaTask
    options: Options
    output: str
    image: str
    path: Path
    label: Path | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: the document, and the bytes of a file with its name."""

    document: dict[str, Any]
    content: bytes | None
    filename: str
    label_id: str


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes share."""

    store: Store
    models: Models
    tasks: Mapping[str, PastaTask]
    jobs: Jobs
    private: PrivateFolder
    sessions: PrivateSessions
    device: str
    readings: Readings

    def task(self, name: str) -> PastaTask:
        """Look a task up.

        Raises:
            HTTPException: 404 with the names there are.
        """
        task = self.tasks.get(name)
        if task is None:
            raise HTTPException(404, f"no model {name[:60]!r}; there are {', '.join(self.tasks)}.")
        return task

    def source(self, image: str, session: str, upload: Path | None) -> Path:
        """Find the CT of a request: an upload, a session, or an image of the store.

        Raises:
            HTTPException: 404 for a session, 422 if nothing or more than one is named.
            StoreError: if the image is unknown.
        """
        if sum((bool(image), bool(session), upload is not None)) == 0:
            raise HTTPException(422, "name an image, a session_id or send a file.")
        if upload is not None:
            if session:
                raise HTTPException(422, "send a file or name a session_id, not both.")
            return upload
        if session:
            found = self.sessions.get_session(session)
            if found is None:
                raise HTTPException(404, f"no session {session[:60]!r}; it may have expired.")
            return Path(found.image)
        return self.store.image(image).path

    def run(self, request: Request, job: Job) -> Answer:
        """Do the work of one request; called with the device free.

        Raises:
            PastaError: as the readers and the pipeline.
        """
        job.progress(0.0, "reading")
        volume = read_volume(request.path)
        labelmap = self._labelmap(request, volume)
        refusal = request.task.refusal(labelmap=labelmap is not None)
        if refusal:
            raise HTTPException(503, refusal)
        inputs = Inputs(
            volume, labelmap, request.options, request.output, request.folder, job.progress
        )
        outcome = request.task.run(inputs)
        job.progress(1.0, "writing")
        label_id = self._keep(request, outcome)
        document = {**outcome.document, "label": label_id} if label_id else outcome.document
        content = outcome.file.read_bytes() if outcome.file else None
        if request.output == "image" and content is None:
            msg = f"{request.task.name} made no image for this CT; ask for JSON."
            raise RequestError(msg)
        name = outcome.file.name if outcome.file else ""
        return Answer(document, content, name, label_id)

    def _labelmap(self, request: Request, volume: Volume) -> Volume | None:
        if request.label is not None:
            return read_labelmap(request.label, volume.grid)
        options = request.options
        if not options.label_tag or options.save_label:
            return None
        record = self.store.label(request.image, options.label_tag, options.reader)
        return read_labelmap(self.store.label_path(record), volume.grid)

    def _keep(self, request: Request, outcome: Outcome) -> str:
        if not request.options.save_label or outcome.labelmap is None:
            return ""
        if not request.image:
            msg = "save_label needs an image of the store; upload the CT first."
            raise RequestError(msg)
        record = self.store.save_label(
            request.image,
            outcome.labelmap,
            tag=request.options.label_tag or "original",
            reader=request.task.name,
            info={"result": outcome.document},
        )
        return f"{record.image}@{record.reader}"


def received(stream: BinaryIO, filename: str | None, folder: Path, stem: str) -> Path:
    """Write an upload to a private folder under a neutral name.

    Raises:
        RequestError: if the name has no suffix that we read.
    """
    name = Path((filename or "").replace("\\", "/")).name
    suffix = name[len(stem_of(name)) :].lower()
    if suffix not in SUFFIXES:
        msg = (
            f"the uploaded file has the suffix {Path(name).suffix[:10]!r}; give one of "
            f"{', '.join(SUFFIXES)}, or send a DICOM series through a session."
        )
        raise RequestError(msg)
    path = folder / f"{stem}{suffix}"
    with path.open("xb") as target:
        shutil.copyfileobj(stream, target, 1 << 20)
    return path


def info_of(text: str) -> dict[str, Any]:
    """Read the metadata that a client sends with an image or a label.

    Raises:
        RequestError: if it is not a JSON object.
    """
    try:
        info = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        msg = "params is not valid JSON; send an object."
        raise RequestError(msg) from error
    if not isinstance(info, dict):
        msg = "params must be a JSON object."
        raise RequestError(msg)
    return storable(dict(finite(info)))


def storable(document: dict[str, Any]) -> dict[str, Any]:
    """Refuse half characters, which JSON can hold and no answer could: every later one would fail.

    Raises:
        RequestError: if there is one.
    """
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        msg = "a text holds half of a character (a lone surrogate); send whole ones."
        raise RequestError(msg) from error
    return document
