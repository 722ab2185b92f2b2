"""All studies of this server."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lib.study.prepare import Preparation
from lib.study.running import RefusedError, RunningStudy
from lib.study.tokens import AdminToken, Brake, study_of
from pasta.errors import CheckpointError, OutputError, PastaError
from pasta.io import read_labelmap
from pasta.study.folder import StudyFolder
from pasta.study.protocol import PROTOCOL_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from lib.service import Service
    from pasta.study.conduct import Session

_log = logging.getLogger(__name__)
_OWN_SECONDS = 15.0  # a server that is being stopped lets a study go in that time


@dataclass(frozen=True, slots=True)
class Waiting:
    """A study that is not open to readers.

    Attributes:
        id: of the study, or the name of its folder where the protocol cannot be read.
        title: for people.
        reason: for the coordinator; it may name images.
    """

    id: str
    title: str
    reason: str


class Studies:
    """The studies below one folder; one that is locked later is served from then on.

    Args:
        service: that the tasks run on.
        path: a study's folder, or a folder of them.
        admin_token: "" takes one made up and kept in that folder.

    Raises:
        PastaError: if there is no study, or the folder would show its files as images.
    """

    def __init__(self, service: Service, path: Path, admin_token: str) -> None:
        self.service, self._path = service, path
        self._guard = threading.Lock()
        self.running: dict[str, RunningStudy] = {}
        self.preparations: dict[str, Preparation] = {}
        self.waiting: dict[str, Waiting] = {}
        self.brake = Brake()
        studies = service.store.folder.resolve()
        inside = path.resolve().is_relative_to(studies)
        if inside and not _hidden(path.resolve().relative_to(studies).parts):
            msg = (
                f"PASTA_STUDY: {path.name} lies in the folder of images, where its masks would "
                "count as images; move it beside that folder."
            )
            raise PastaError(msg)
        if not path.is_dir():
            msg = f"PASTA_STUDY: {path.name} is no folder; make one with `pasta study new`."
            raise PastaError(msg)
        try:
            self.admin = AdminToken(admin_token, path)
        except OSError as error:
            msg = f"PASTA_STUDY: {path.name} cannot be written to ({error.strerror})."
            raise OutputError(msg) from error
        self.look(own_seconds=_OWN_SECONDS)
        if not self.running and not self.waiting:
            msg = f"PASTA_STUDY: there is no study in {path.name}; make one with `pasta study new`."
            raise PastaError(msg)

    def look(self, *, own_seconds: float = 0.0) -> None:
        """Begin to serve studies that have become ready.

        Args:
            own_seconds: to wait for another server to let a study go.
        """
        with self._guard:
            served = {study.folder.path for study in self.running.values()}
            waiting = {}
            for path in self._folders():
                if path not in served:
                    found = self._open(path, own_seconds)
                    if found:
                        waiting[found.id] = found
            for study_id, found in waiting.items():
                if found != self.waiting.get(study_id):
                    _log.warning("study %s is not open to readers: %s", study_id, found.reason)
            self.waiting = waiting

    def get(self, study_id: str) -> RunningStudy:
        """Look a study up.

        Raises:
            RefusedError: 404 if there is none, 409 if it is not ready for readers.
        """
        if study_id not in self.running:
            self.look()
        if study_id in self.running:
            return self.running[study_id]
        if study_id in self.waiting:
            msg = f"study {study_id} is not open to readers; its coordinator sees why."
            raise RefusedError(msg, 409, "unlocked")
        msg = f"there is no study {study_id[:40]!r} on this server."
        raise RefusedError(msg, 404, "study")

    def of_token(
        self, token: str, machine_session: str, *, ended: bool = False
    ) -> tuple[RunningStudy, Session]:
        """Find study and session of a session token.

        Raises:
            RefusedError: 401 if it opens nothing.
        """
        study = self.running.get(study_of(token) or "")
        if study is None:
            msg = "a session token of a study is needed; log in."
            raise RefusedError(msg, 401, "token")
        return study, study.session(token, machine_session, ended=ended)

    def document(self) -> list[dict[str, Any]]:
        """What anybody may know of the studies here."""
        self.look()
        found = {
            study.id: {"id": study.id, "title": study.folder.protocol.title, "locked": True}
            for study in self.running.values()
        } | {
            study_id: {"id": study_id, "title": found.title, "locked": False}
            for study_id, found in self.waiting.items()
            if study_id not in self.running
        }
        return [found[study_id] for study_id in sorted(found)]

    def close(self) -> None:
        """Let all studies go."""
        for preparation in self.preparations.values():
            preparation.stop()

    def _folders(self) -> list[Path]:
        if (self._path / PROTOCOL_FILE).is_file():
            return [self._path]
        return [path for path in sorted(self._path.iterdir()) if (path / PROTOCOL_FILE).is_file()]

    def _open(self, path: Path, own_seconds: float) -> Waiting | None:
        """Serve one study; what keeps it from being served, or None."""
        study_id, title = path.name, path.name
        try:
            folder = StudyFolder.open(path)
            study_id, title = folder.id, folder.protocol.title
            if folder.lock is None:
                return Waiting(study_id, title, "It is not locked yet: pasta study lock.")
            if study_id in self.running:
                text = f"Another study has the id {study_id}; rename one in its {PROTOCOL_FILE}."
                return Waiting(path.name, title, text)
            study = RunningStudy(folder, self.weights, self._check_mask, own_seconds)
        except PastaError as error:
            return Waiting(study_id, title, str(error))
        preparation = Preparation(self.service, study)
        study.ready = preparation.ready
        self.preparations[study.id] = preparation
        self.running[study.id] = study
        preparation.start()
        return None

    def weights(self) -> dict[str, str]:
        """SHA-256 of the models here, by name, as a lock holds them."""
        try:
            return self.service.models.found().weights_sha256
        except CheckpointError:
            return {}

    def _check_mask(self, image: str, mask: bytes) -> None:
        with self.service.private.job() as folder:
            path = folder / "mask.nii.gz"
            path.write_bytes(mask)
            read_labelmap(path, self.service.store.grid(image))


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") for part in parts)
