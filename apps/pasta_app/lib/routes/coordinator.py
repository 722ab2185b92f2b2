"""/pasta/coordinator/...: pages and JSON for those who run a study; behind the admin token.

The pages only show. The one thing that can be changed, a washout that is cut short with a reason,
is a call with JSON, so that no click does it.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.background import BackgroundTask

from lib.access.roles import PERSON, Person, Role
from lib.routes.study import StudyRoute
from lib.study.gate import COOKIE, Gate, cookie_of
from lib.study.overview import Overview
from lib.study.pages import ASSETS, PAGES, page
from lib.study.running import RefusedError, RunningStudy
from lib.study.studies import Studies
from pasta.errors import PastaError
from pasta.store import Store
from pasta.study.findings import StudyError

HOME = "/pasta/coordinator/"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def router(studies: Studies) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/pasta/coordinator", tags=["Coordinator"], route_class=StudyRoute)
    gate = Gate(studies.admin)
    overviews: dict[str, Overview] = {}

    def overview(study_id: str) -> Overview:
        study = studies.get(study_id)
        if study_id not in overviews:
            overviews[study_id] = Overview(study, studies.preparations[study_id])
        return overviews[study_id]

    def known(request: Request) -> bool:
        person: Person | None = request.scope.get(PERSON)
        if person is not None and person.role >= Role.COORDINATOR:
            return True
        return gate.is_coordinator(
            {name.encode(): value.encode("latin-1") for name, value in request.headers.items()}
        )

    def coordinator(request: Request) -> None:
        if not known(request):
            raise HTTPException(401, "the admin token is needed here; see PASTA_ADMIN_TOKEN.")

    behind_token = [Depends(coordinator)]

    def listed() -> list[dict[str, Any]]:
        found = []
        for study in studies.document():
            if study["locked"]:
                found.append(overview(study["id"]).summary())
            else:
                found.append({**study, "reason": studies.waiting[study["id"]].reason})
        return found

    # --- pages

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    def home(request: Request) -> Response:
        if not known(request):
            return _html("login.html", wrong=False)
        return _html("studies.html", studies=listed())

    @routes.get("/study/{study_id}", response_class=HTMLResponse, include_in_schema=False)
    def study_page(request: Request, study_id: str) -> Response:
        if not known(request):
            return RedirectResponse(HOME, 303)
        return _html("study.html", study=overview(study_id).document())

    @routes.post("/login", include_in_schema=False)
    def login(request: Request, token: Annotated[str, Form()] = "") -> Response:
        address = request.client.host if request.client else ""
        if studies.brake.seconds(address):
            raise HTTPException(429, "too many wrong tokens; wait a minute.")
        if not studies.admin.fits(token.strip()):
            studies.brake.failed(address)
            return _html("login.html", status=401, wrong=True)
        response = RedirectResponse(HOME, 303)
        response.set_cookie(
            COOKIE,
            studies.admin.cookie(),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @routes.post("/logout", include_in_schema=False)
    def logout(request: Request) -> Response:
        studies.admin.forget(cookie_of(request.headers.get("cookie", "")))
        response = RedirectResponse(HOME, 303)
        response.delete_cookie(COOKIE)
        return response

    @routes.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "there is no such file.")
        headers = {**_HEADERS, "Cache-Control": "no-cache"}
        return FileResponse(PAGES / name, media_type=ASSETS[name], headers=headers)

    # --- JSON

    @routes.get("/api/studies", dependencies=behind_token, summary="All studies, in numbers")
    def studies_json() -> dict[str, Any]:
        return {"studies": listed()}

    @routes.get("/api/{study_id}", dependencies=behind_token, summary="One study, in numbers")
    def study_json(study_id: str) -> dict[str, Any]:
        return overview(study_id).document()

    @routes.get("/api/{study_id}/export", dependencies=behind_token, summary="Export as ZIP")
    def export(request: Request, study_id: str, exploratory: bool = False) -> Response:
        study = studies.get(study_id)
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
            path = Path(file.name)
        try:
            _export(study, studies.service.store, path, exploratory=exploratory)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, PastaError) and "text/html" in request.headers.get("accept", ""):
                values = {"study": study_id, "reason": str(error), "exploratory": not exploratory}
                return _html("refused.html", 409, **values)
            raise
        return FileResponse(
            path,
            media_type="application/zip",
            filename=f"{study_id}{'-exploratory' if exploratory else ''}.zip",
            background=BackgroundTask(path.unlink, missing_ok=True),
        )

    @routes.post(
        "/api/{study_id}/override", dependencies=behind_token, summary="Cut a washout short"
    )
    def override(study_id: str, given: dict[str, Any] = Body(...)) -> dict[str, Any]:
        block, reason = given.get("block"), given.get("reason")
        if not isinstance(block, str) or not isinstance(reason, str):
            msg = "name the block and give a reason."
            raise RefusedError(msg, 422, "reason")
        studies.get(study_id).allow_early(block, reason)
        return {"block": block, "allowed": True}

    return routes


def _export(study: RunningStudy, store: Store, path: Path, *, exploratory: bool) -> None:
    try:
        from pasta.study.export import export  # here: it needs the extra `study`
    except ImportError as error:
        msg = "the export needs the extra `study` on the server: pip install 'pasta-aid[study]'."
        raise RefusedError(msg, 503, "extra") from error
    try:
        export(study.folder, path, store=store, exploratory=exploratory)
    except StudyError as error:
        raise RefusedError(str(error), 409, "changed") from error


def _html(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(page(template, **values), status, headers=_HEADERS)
