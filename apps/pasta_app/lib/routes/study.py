"""/pasta/study/...: what a reader's machine asks for; nothing here shows truth or other readers.

Every call after the login carries `Authorization: Bearer TOKEN` and, in `X-Machine-Session`, the
machine session that logged in; a token without it opens nothing.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, File, Form, Header, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute

from lib.study.gate import bearer
from lib.study.running import RefusedError, RunningStudy
from lib.study.studies import Studies
from pasta.study.archive import ArchiveError, ForkError
from pasta.study.conduct import Session
from pasta.study.findings import StudyError

MOST_LINES = 2000
_MASK_KINDS = {".gz": "application/gzip"}
_PRIVATE = {"Cache-Control": "no-store"}


class StudyRoute(APIRoute):
    """Answers refusals with a sentence, a code for programs, and what to do next."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response = await inner(request)
            except RefusedError as refusal:
                content = {"detail": str(refusal), "code": refusal.code}
                headers = {}
                if refusal.retry_seconds:
                    headers["Retry-After"] = str(refusal.retry_seconds)
                return JSONResponse(content, refusal.status, headers)
            except ForkError as fork:
                content = {"detail": str(fork), "accepted_seq": fork.seq, "head": fork.head}
                return JSONResponse(content, 409)
            except ArchiveError as error:
                return JSONResponse({"detail": str(error)}, 422)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return handler


def router(studies: Studies) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(prefix="/pasta/study", tags=["Reader study"], route_class=StudyRoute)

    def seated(
        authorization: Annotated[str, Header()] = "",
        x_machine_session: Annotated[str, Header()] = "",
    ) -> tuple[RunningStudy, Session]:
        return studies.of_token(bearer(authorization), x_machine_session)

    def seated_or_ended(
        authorization: Annotated[str, Header()] = "",
        x_machine_session: Annotated[str, Header()] = "",
    ) -> tuple[RunningStudy, Session]:
        return studies.of_token(bearer(authorization), x_machine_session, ended=True)

    Seat = Annotated[tuple[RunningStudy, Session], Depends(seated)]  # noqa: N806 - a type
    LateSeat = Annotated[tuple[RunningStudy, Session], Depends(seated_or_ended)]  # noqa: N806

    @routes.get("", summary="Studies of this server")
    def listed() -> dict[str, Any]:
        return {"studies": studies.document()}

    @routes.post("/login", summary="Begin a session with a reader code")
    def login(request: Request, given: dict[str, Any] = Body(...)) -> dict[str, Any]:
        address = request.client.host if request.client else ""
        wait = studies.brake.seconds(address)
        if wait:
            msg = "too many wrong codes; wait a minute."
            raise RefusedError(msg, 429, "wait", retry_seconds=int(wait) + 1)
        study = studies.get(_text(given, "study"))
        machine_session = _text(given, "machine_session")
        if not 8 <= len(machine_session) <= 128:
            msg = "machine_session must be a random text of 8 to 128 characters."
            raise RefusedError(msg, 422, "machine_session")
        try:
            reader = study.folder.reader_of(_text(given, "code"))
        except StudyError as error:
            raise RefusedError(str(error), 409, "codes") from error
        if reader is None:
            studies.brake.failed(address)
            msg = f"this reader code is not known in study {study.id}; ask the coordinator."
            raise RefusedError(msg, 401, "code")
        return study.login(reader.code, machine_session, take_over=bool(given.get("take_over")))

    @routes.post("/next", summary="The case to read now")
    def next_case(seat: Seat) -> dict[str, Any]:
        study, session = seat
        return study.next(session)

    @routes.get("/upcoming", summary="The case after it, for loading ahead")
    def upcoming(seat: Seat) -> dict[str, Any]:
        study, session = seat
        slot = study.upcoming(session)
        code = slot.code if slot else None
        return {"case": code, "url": f"/pasta/study/case/{code}/image" if code else None}

    @routes.get("/case/{code}/image", summary="The CT of a case, under a neutral name")
    def image(code: str, seat: Seat, if_none_match: Annotated[str, Header()] = "") -> Response:
        study, session = seat
        _, slot = study.visible(session, code)
        path, sha256 = studies.preparations[study.id].images.get(slot.image, slot.code)
        headers = {**_PRIVATE, "ETag": f'"{sha256}"'}
        if sha256 in if_none_match:
            return Response(status_code=304, headers=headers)
        return FileResponse(
            path, media_type="application/gzip", filename=f"{code}.nii.gz", headers=headers
        )

    @routes.get("/case/{code}/ai/{task}", summary="AI result of a case; assisted arm only")
    def ai(code: str, task: str, seat: Seat, part: str = "document") -> Response:
        study, session = seat
        state, slot = study.assisted(session, code, task)
        preparation = studies.preparations[study.id]
        if part == "mask":
            path = preparation.mask(slot.code, state.block.organ, task)
            if path is not None:
                return FileResponse(
                    path, media_type="application/gzip", filename=f"{code}.{task}.nii.gz"
                )
        else:
            document = preparation.document(slot.code, state.block.organ, task)
            if document is not None:
                return JSONResponse(document)
        msg = "the AI result is not ready yet; ask again."
        raise RefusedError(msg, 404, "preparing", retry_seconds=2)

    @routes.post("/case/{code}/answer", summary="Keep the answer to a case")
    def answer(
        code: str,
        seat: Seat,
        answer: Annotated[str, Form()],
        mask: Annotated[UploadFile | None, File()] = None,
    ) -> dict[str, Any]:
        study, session = seat
        return study.answer(session, code, answer.encode(), mask.file.read() if mask else None)

    @routes.post("/events", summary="Keep lines of a session's event log; repeat from anywhere")
    def events(seat: Seat, given: dict[str, Any] = Body(...)) -> dict[str, Any]:
        study, session = seat
        lines = given.get("lines")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            msg = "lines must be a list of the log's lines."
            raise RefusedError(msg, 422, "lines")
        if len(lines) > MOST_LINES:
            msg = f"send at most {MOST_LINES} lines at once."
            raise RefusedError(msg, 413, "lines")
        return study.upload(session, _text(given, "session_id"), lines)

    @routes.post("/pause", summary="Note a pause")
    def pause(seat: Seat, given: dict[str, Any] | None = Body(None)) -> dict[str, Any]:
        study, session = seat
        return study.pause(session, str((given or {}).get("reason", "")))

    @routes.post("/resume", summary="Note the end of a pause")
    def resume(seat: Seat) -> dict[str, Any]:
        study, session = seat
        return study.resume(session)

    @routes.post("/end", summary="End a session whose log is here")
    def end(seat: LateSeat, given: dict[str, Any] = Body(...)) -> dict[str, Any]:
        study, session = seat
        seq = given.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool):
            msg = "seq must be the number of the log's last event."
            raise RefusedError(msg, 422, "seq")
        return study.end(session, _text(given, "head"), seq)

    return routes


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        msg = f"{name} is missing; it must be a text."
        raise RefusedError(msg, 422, name)
    return value
