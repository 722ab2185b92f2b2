"""POST /infer/{model}: waits for the device without holding up the server."""

import asyncio
import json
from pathlib import Path

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, Response, UploadFile
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from requests_toolbelt import MultipartEncoder
from starlette.concurrency import run_in_threadpool

from lib import service as work
from lib.answers import CLIENT_CLOSED, http_error
from lib.jobs import Job
from lib.options import Options, RequestError, parse
from lib.service import Answer, Service, received

OUTPUTS = ("all", "image", "json")
POLL_SECONDS = 0.2


def router(service: Service) -> APIRouter:
    """Build the route."""
    routes = APIRouter(tags=["Infer"])

    @routes.post("/infer/{model}", summary="Run a task on one CT")
    async def infer(
        request: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),
        label: UploadFile | None = File(None),
        output: str | None = None,
        _user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),
    ) -> Response:
        try:
            with service.private.job() as folder:
                asked = await run_in_threadpool(
                    _checked, service, model, image, session_id, params, file, label, output, folder
                )
                answer = await _done(service, asked, request)
        except HTTPException:
            raise
        except Exception as error:
            raise http_error(error) from error
        # large answers are copied: not in the thread that all other requests wait for
        return await run_in_threadpool(_response, answer, asked.output)

    return routes


def _checked(
    service: Service,
    model: str,
    image: str,
    session_id: str,
    params: str,
    file: UploadFile | None,
    label: UploadFile | None,
    output: str | None,
    folder: Path,
) -> work.Request:
    """Refuse at once what can be refused without reading an image."""
    task = service.task(model)
    output = output or "all"
    if output not in OUTPUTS:
        msg = f"output is {output[:40]!r}, expected one of {', '.join(OUTPUTS)}."
        raise RequestError(msg)
    options = parse(params, service.device)
    upload = received(file.file, file.filename, folder, "image") if file else None
    mask = received(label.file, label.filename, folder, "label") if label else None
    path = service.source(image, session_id, upload)
    stored = "" if upload or session_id else image
    _refuse_nonsense(service, options, stored, model)
    with_labelmap = mask is not None or bool(options.label_tag and not options.save_label)
    refusal = task.refusal(labelmap=with_labelmap)
    if refusal:
        raise HTTPException(503, refusal)
    return work.Request(task, options, output, stored, path, mask, folder)


def _refuse_nonsense(service: Service, options: Options, image: str, model: str) -> None:
    if options.evidence and model != "pasta_screening":
        msg = "evidence is for pasta_screening only."
        raise RequestError(msg)
    if options.save_label and not image:
        msg = "save_label needs an image of the store; upload the CT to the store first."
        raise RequestError(msg)
    if options.reader and not options.label_tag:
        msg = "reader needs label_tag: together they name a stored label."
        raise RequestError(msg)
    if options.label_tag and not options.save_label:
        if not image:
            msg = "label_tag needs an image of the store; send the labelmap as label instead."
            raise RequestError(msg)
        service.store.label(image, options.label_tag, options.reader)


async def _done(service: Service, asked: work.Request, request: Request) -> Answer:
    """Wait for the work; stop it when the client goes away."""
    job = Job(asked.options.job, asked.task.name)
    waiting = asyncio.wrap_future(service.jobs.submit(job, lambda: service.run(asked, job)))
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=POLL_SECONDS)
            if not waiting.done() and await request.is_disconnected():
                service.jobs.cancel(job.id)
        return waiting.result()
    except asyncio.CancelledError:
        service.jobs.cancel(job.id)
        raise HTTPException(CLIENT_CLOSED, f"job {job.id} was cancelled.") from None


def _response(answer: Answer, output: str) -> Response:
    if output == "image":
        headers = {"Content-Disposition": f'attachment; filename="{answer.filename}"'}
        return Response(answer.content, media_type=_kind(answer.filename), headers=headers)
    text = json.dumps(answer.document, allow_nan=False)
    if output == "json" or answer.content is None:
        return Response(text, media_type="application/json")
    fields = {
        "params": (None, text, "application/json"),
        "image": (answer.filename, answer.content, _kind(answer.filename)),
    }
    message = MultipartEncoder(fields=fields)
    return Response(message.to_string(), media_type=message.content_type)


def _kind(filename: str) -> str:
    return "application/gzip" if filename.endswith(".gz") else "application/octet-stream"
