"""Puts our routes and checks around MONAI Label's running application."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.config import settings

from lib.access.door import Door
from lib.access.roles import Role
from lib.access.tokens import LocalToken, plain_token
from lib.guard import Guard
from lib.listening import keep_inside
from lib.routes import pages, routers
from lib.routes.pages import allowed_only
from lib.study.gate import Gate
from lib.study.studies import Studies

if TYPE_CHECKING:
    from types import FrameType

    from lib.service import Service
    from pasta.settings import Settings

_log = logging.getLogger(__name__)
LOG_CONFIG_BYTES = 1 << 16


def attach(service: Service, config: Settings) -> bool:
    """Take over routes of the server, if this process is one.

    Works with a plain `monailabel start_server`: the application is already running when it loads
    ours, so routes go in front of the present ones, and the checks around its finished stack.

    Raises:
        PastaError: if the study that is to be run cannot be, or the tokens cannot be read.
    """
    server: Any = sys.modules.get("monailabel.app")
    if server is None or getattr(server.app.state, "pasta", False):
        return False
    studies = Studies(service, config.study, config.admin_token) if config.study else None
    gate = Gate(studies.admin) if studies else None
    prefix = settings.MONAI_LABEL_API_STR
    door = Door(config, service.store.private, gate, prefix)
    server.app.state.pasta = True
    before = len(server.app.router.routes)
    for router in routers(service, config, studies):
        server.app.include_router(router, prefix=prefix)
    described = server.app.openapi
    server.app.openapi = lambda: allowed_only(described(), prefix, config.switches)
    server.app.include_router(pages.router(server.app))
    routes = server.app.router.routes
    routes[:] = [*routes[before:], *routes[:before]]
    server.app.openapi_schema = None
    server.app.middleware_stack = Guard(
        server.app.middleware_stack, config, door, lambda image: image in service.store.images()
    )
    _lay_out(door, service, keep_inside(network=config.network))
    return True


def _lay_out(door: Door, service: Service, port: int) -> None:
    """Tell where the tokens are, and let clients of this account find the reader's."""
    made = "made" if door.tokens.made else "read"
    _log.info("tokens %s: %s", made, door.tokens.path)
    token = plain_token(door.tokens.path, Role.READER)
    if not port or not token:
        return
    try:
        local = LocalToken(port, token)
    except OSError as error:
        _log.warning("clients on this machine need the token typed in: %s", error.strerror)
        return
    service.private.also(local.remove)


def clean_up_when_stopped(service: Service) -> None:
    """Remove temporary files on SIGTERM too.

    uvicorn ends with the signal's default action once it has shut down, and no `atexit` runs then.
    """
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=service.jobs.cancel_all, name="stop", daemon=True).start()
        service.private.close()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, stop)


def warm_up(service: Service, device: str) -> None:
    """Load the networks before the first request, without holding up the start.

    Building a network for the first time imports much, and holds up all threads for half a second.
    """

    def run() -> None:
        try:
            service.store.images()
            if not service.models.refusal(("segmentation",)):
                service.models.pipeline(device).warm_up()
                _log.info("warm-up done: the networks are loaded")
        except Exception:  # noqa: BLE001 - the server runs on and can say what is wrong
            _log.exception("warm-up failed; the first request will say why")

    service.jobs.before_all(run)


def refuse_workers() -> None:
    """Stop a server of several processes: each would have its own queue, sessions and index.

    uvicorn starts a worker that ends again and again, so its parent is told to end.
    """
    if "monailabel.app" not in sys.modules or multiprocessing.parent_process() is None:
        return
    sys.stderr.write("PASTA-AID runs in one process: start it without --workers.\n")
    sys.stderr.flush()
    os.kill(os.getppid(), signal.SIGTERM)


def remove_log_config(app_folder: Path) -> None:
    """Remove the logging configuration that every start leaves in the temporary folder.

    uvicorn has read it by now. The file names the log of this app; others are left alone.
    """
    log = str(app_folder / "logs" / "app.log")
    spellings = (json.dumps(log).encode(), f'"{log}"'.encode())
    for path in Path(tempfile.gettempdir()).glob("tmp*.json"):
        with contextlib.suppress(OSError):
            small = path.stat().st_size < LOG_CONFIG_BYTES
            if small and any(spelling in path.read_bytes() for spelling in spellings):
                path.unlink()
