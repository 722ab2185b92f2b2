"""Routes that replace those of MONAI Label, and a few of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.routes import coordinator, datastore, infer, jobs, processes, review, session, study

if TYPE_CHECKING:
    from fastapi import APIRouter

    from lib.service import Service
    from lib.study.studies import Studies
    from pasta.settings import Settings


def routers(
    service: Service, settings: Settings, studies: Studies | None = None
) -> list[APIRouter]:
    """Build all routes on a service, those of reader studies only where there are any."""
    found = [module.router(service) for module in (infer, jobs, review, datastore)]
    found += [module.router(service, settings) for module in (session, processes)]
    return [*found, study.router(studies), coordinator.router(studies)] if studies else found
