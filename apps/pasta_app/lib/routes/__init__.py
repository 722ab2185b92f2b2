"""Routes that replace those of MONAI Label, and a few of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.routes import datastore, infer, jobs, processes, session

if TYPE_CHECKING:
    from fastapi import APIRouter

    from lib.service import Service


def routers(service: Service) -> list[APIRouter]:
    """Build all routes on a service."""
    return [module.router(service) for module in (infer, jobs, datastore, session, processes)]
