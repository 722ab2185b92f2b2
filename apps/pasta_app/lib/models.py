"""The weights in use: found once, found again when the folder changes, refused with a reason."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pasta.errors import CheckpointError
from pasta.networks.checkpoint import PACKAGED_MODELS, ModelSet, find_models

if TYPE_CHECKING:
    from pathlib import Path

    from pasta.inference.pipeline import Pipeline

_Signature = tuple[tuple[str, int, int], ...]
MISSING = "no {} weights found: import some with `pasta weights import`, or set PASTA_MODELS."


class Models:
    """The models of one folder, and a pipeline on them for each device.

    Args:
        folder: of model folders; None takes the packaged ones.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or PACKAGED_MODELS
        self._guard = threading.RLock()
        self._signature: _Signature | None = None
        self._found: ModelSet | None = None
        self._error: CheckpointError | None = None
        self._pipelines: dict[str, Pipeline] = {}

    def found(self) -> ModelSet:
        """The models as they are on the disk now.

        Raises:
            CheckpointError: if the folder is missing or a model is broken.
        """
        with self._guard:
            signature = self._look()
            if signature != self._signature:
                self._signature, self._pipelines = signature, {}
                self._found, self._error = None, None
                try:
                    self._found = find_models(self._folder)
                except CheckpointError as error:
                    self._error = error
            if self._found is None:
                raise self._error or CheckpointError(MISSING.format("PASTA"))
            return self._found

    def refusal(self, purposes: tuple[str, ...]) -> str:
        """Say why a task that needs these models cannot run; empty if it can."""
        try:
            found = self.found()
        except CheckpointError as error:
            return str(error)
        return next((MISSING.format(name) for name in purposes if not getattr(found, name)), "")

    def pipeline(self, device: str) -> Pipeline:
        """The pipeline for a device; networks stay loaded. For one thread at a time.

        Raises:
            CheckpointError: if a model is broken.
        """
        from pasta.inference.pipeline import Pipeline  # here, as most child processes never infer

        with self._guard:
            models = self.found()
            if device not in self._pipelines:
                self._pipelines = {device: Pipeline(models, device=device)}  # one device's memory
            return self._pipelines[device]

    def _look(self) -> _Signature:
        files = (*self._folder.glob("*.json"), *self._folder.glob("*/*"))
        seen = []
        for path in sorted(files):
            try:
                stat = path.stat()
            except OSError:
                continue
            seen.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(seen)
