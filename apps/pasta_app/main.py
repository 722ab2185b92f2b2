"""PASTA-AID as an app of MONAI Label: `monailabel start_server --app apps/pasta_app --studies DIR`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import mends
from lib.batches import StoreBatch
from lib.datastore import PastaDatastore
from lib.infers import TASKS
from lib.jobs import Jobs
from lib.models import Models
from lib.pacs import send_results, store_of
from lib.private import PrivateFolder
from lib.readings import Readings
from lib.scoring import Disagreement
from lib.server import (
    attach,
    clean_up_when_stopped,
    refuse_workers,
    remove_log_config,
    warm_up,
)
from lib.service import Service
from lib.sessions import PrivateSessions
from lib.strategies import First, Random
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

from pasta import __version__
from pasta.labels import LABELS
from pasta.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monailabel.interfaces.datastore import Datastore
    from monailabel.interfaces.tasks.infer_v2 import InferTask
    from monailabel.interfaces.tasks.scoring import ScoringMethod
    from monailabel.interfaces.tasks.strategy import Strategy


class PastaApp(MONAILabelApp):
    """Pan-tumour CT: segmentation, screening, report."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        os.umask(0o077)  # CTs, labels, logs: for this account alone
        mends.apply()
        refuse_workers()
        if "monailabel.app" in sys.modules:
            remove_log_config(Path(app_dir))
        self.config = Settings.from_environment()
        self.models = Models(self.config.models)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="PASTA-AID",
            description="Pan-tumour CT annotation: research use only",
            version=__version__,
            labels=[label.name for label in LABELS],
        )

    def init_datastore(self) -> Datastore:
        self.store = store_of(str(self.studies), self.config)
        self.private = PrivateFolder(self.store.private / "run")
        self.private.use_for_temporary_files()
        return PastaDatastore(self.store)

    def init_infers(self) -> dict[str, InferTask]:
        return {task.name: task(self.models) for task in TASKS}

    def init_strategies(self) -> dict[str, Strategy]:
        return {"first": First(), "random": Random()}

    def init_batch_infer(self) -> StoreBatch:
        return StoreBatch(self.store, self.models)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"disagreement": Disagreement(self.store)}

    def _load_sessions(self, load: bool = False) -> PrivateSessions:  # noqa: ARG002
        sessions = PrivateSessions(
            str(self.private.path / "sessions"), settings.MONAI_LABEL_SESSION_EXPIRY
        )
        sessions.purge()
        return sessions

    def on_init_complete(self) -> None:
        super().on_init_complete()
        self.store.refresh()
        service = Service(
            self.store,
            self.models,
            self._infers,
            Jobs(self.config.queue),
            self.private,
            self._sessions,
            self.config.device,
            Readings(self.store.private / "readings.json"),
        )
        if attach(service, self.config):
            self._datastore.watch()
            send_results(self.store)
            clean_up_when_stopped(service)
            warm_up(service, self.config.device)

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Run a task as MONAI Label's batch inference does; results of JSON are kept too."""
        image = self.store.image(str(request.get("image", ""))).id  # an id, never a path
        result = super().infer(request, datastore)
        if request.get("save_label") and not result["file"]:
            self.store.update_image_info(image, {f"result.{request['model']}": result["params"]})
        return result
