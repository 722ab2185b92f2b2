"""All studies of this server."""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from lib.study.prepare import Preparation
from lib.study.running import RefusedError, RunningStudy
from lib.study.tokens import AdminToken, Brake, study_of
from pasta.errors import CheckpointError, OutputError, PastaError
from pasta.io import read_labelmap
from pasta.study.folder import StudyFolder, studies_in

if TYPE_CHECKING:
    from pathlib import Path

    from lib.service import Service
    from pasta.networks.checkpoint import Model
    from pasta.study.conduct import Session

_log = logging.getLogger(__name__)


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
        self.waiting: dict[str, tuple[StudyFolder, str]] = {}  # with the reason
        self.brake = Brake()
        studies = service.store.folder.resolve()
        inside = path.resolve().is_relative_to(studies)
        if inside and not _hidden(path.resolve().relative_to(studies).parts):
            msg = (
                f"PASTA_STUDY: {path.name} lies in the folder of images, where its masks would "
                "count as images; move it beside that folder."
            )
            raise PastaError(msg)
        try:
            self.admin = AdminToken(admin_token, path)
        except OSError as error:
            msg = f"PASTA_STUDY: {path.name} cannot be written to ({error.strerror})."
            raise OutputError(msg) from error
        self.look()
        if not self.running and not self.waiting:
            msg = f"PASTA_STUDY: there is no study in {path.name}; make one with `pasta study new`."
            raise PastaError(msg)

    def look(self) -> None:
        """Begin to serve studies that have become ready."""
        with self._guard:
            for folder in studies_in(self._path):
                study_id = folder.protocol.id
                if study_id in self.running:
                    continue
                reason = self._open(folder)
                if reason:
                    if self.waiting.get(study_id, ("", ""))[1] != reason:
                        _log.warning("study %s is not served: %s", study_id, reason)
                    self.waiting[study_id] = folder, reason
                else:
                    self.waiting.pop(study_id, None)

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
            raise RefusedError(self.waiting[study_id][1], 409, "unlocked")
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
            study_id: {"id": study_id, "title": folder.protocol.title, "locked": False}
            for study_id, (folder, _) in self.waiting.items()
        }
        return [found[study_id] for study_id in sorted(found)]

    def close(self) -> None:
        """Let all studies go."""
        for preparation in self.preparations.values():
            preparation.stop()

    def _open(self, folder: StudyFolder) -> str:
        """Serve one study; the reason why not, or ""."""
        if folder.lock is None:
            return f"study {folder.protocol.id} is not locked; run `pasta study lock` first."
        try:
            study = RunningStudy(folder, self.weights, self._check_mask)
        except PastaError as error:
            return str(error)
        preparation = Preparation(self.service, study)
        study.ready = preparation.ready
        self.running[study.id] = study
        self.preparations[study.id] = preparation
        preparation.start()
        return ""

    def weights(self) -> dict[str, str]:
        """SHA-256 of the models here, by name, as a lock holds them."""
        try:
            found = self.service.models.found()
        except CheckpointError:
            return {}
        models = (found.segmentation, *found.screening.values(), found.attributes)
        return {model.spec.name: weights_sha256(model) for model in models if model}

    def _check_mask(self, image: str, mask: bytes) -> None:
        with self.service.private.job() as folder:
            path = folder / "mask.nii.gz"
            path.write_bytes(mask)
            read_labelmap(path, self.service.store.grid(image))


def weights_sha256(model: Model) -> str:
    """SHA-256 of a model's weights: of its file, or of the SHA-256 of its folds, one a line."""
    found = [file.sha256 for file in model.spec.weights]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") for part in parts)
