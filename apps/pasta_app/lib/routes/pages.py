"""The description of the routes: as OpenAPI, and as a page that needs no script and no network."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

from lib.access.rules import rule_for
from lib.study.pages import page

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
}


def router(app: FastAPI) -> APIRouter:
    """Build the routes."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    @routes.get("/", include_in_schema=False)
    def described() -> HTMLResponse:
        return HTMLResponse(page("api.html", routes=_listed(app.openapi())), headers=_HEADERS)

    return routes


def allowed_only(document: dict[str, Any], prefix: str, switches: frozenset[str]) -> dict[str, Any]:
    """Leave out what the allow-list does not let through.

    Args:
        document: of OpenAPI.
        prefix: of all routes.
        switches: those that are on.
    """
    paths = {}
    for path, operations in document["paths"].items():
        sample = path.removeprefix(prefix).replace("{", "").replace("}", "")
        kept = {
            method: operation
            for method, operation in operations.items()
            if rule_for(method.upper(), sample, switches)
        }
        if kept:
            paths[path] = kept
    return {**document, "paths": paths}


def _listed(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            names = [each["name"] for each in operation.get("parameters", ())]
            body = operation.get("requestBody", {}).get("content", {})
            entry = {"path": path, "method": method.upper(), "names": ", ".join(names)}
            summary = operation.get("summary", "")
            found.append({**entry, "body": ", ".join(body), "summary": summary})
    return found
