"""What a request may ask for; everything else is refused by name."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from pasta.errors import LabelError, PastaError
from pasta.inference.device import chosen_device
from pasta.labels import organ_named
from pasta.store import checked_name

EXTENSIONS = (".nii.gz", ".nrrd", ".seg.nrrd")
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


class RequestError(PastaError):
    """A request asks for what it may not, or in a way not understood."""


@dataclass(frozen=True, slots=True)
class Options:
    """Checked parameters of one request.

    Attributes:
        organs: to look at; None for all.
        evidence: also make the evidence map (screening).
        extension: of the file that comes back.
        save_label: keep the mask in the store.
        label_tag: tag to save under, or of the stored label to use.
        reader: whose stored label to use; None for the newest.
        device: that runs the networks.
        job: id for asking how far it is.
    """

    organs: tuple[str, ...] | None = None
    evidence: bool = False
    extension: str = ".nii.gz"
    save_label: bool = False
    label_tag: str | None = None
    reader: str | None = None
    device: str = "auto"
    job: str = ""


def parse(text: str, default_device: str) -> Options:
    """Check the `params` of a request.

    Stock clients add `client_id`, `result_dtype` and `result_compress`; they change nothing here.

    Raises:
        RequestError: if it is not a JSON object, or a parameter is unknown or has a bad value.
        LabelError: if an organ is unknown.
        StoreError: if a name is not allowed.
    """
    params = _object(text)
    known: dict[str, Any] = {
        "organs": _organs,
        "evidence": _flag,
        "result_extension": _extension,
        "result_dtype": _dtype,
        "result_compress": _flag,
        "save_label": _flag,
        "label_tag": checked_name,
        "reader": checked_name,
        "device": _device,
        "job": checked_name,
        "client_id": _ignored,
    }
    unknown = [name for name in params if name not in known]
    if unknown:
        msg = f"parameter {unknown[0][:60]!r} is not allowed; allowed are {', '.join(known)}."
        raise RequestError(msg)
    given = {
        name: known[name](name, value) for name, value in params.items() if value not in (None, "")
    }
    return Options(
        organs=given.get("organs"),
        evidence=given.get("evidence", False),
        extension=given.get("result_extension", ".nii.gz"),
        save_label=given.get("save_label", False),
        label_tag=given.get("label_tag"),
        reader=given.get("reader"),
        device=given.get("device", default_device),
        job=given.get("job") or secrets.token_hex(8),
    )


def _object(text: str) -> dict[str, Any]:
    try:
        params = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        msg = 'params is not valid JSON; send an object such as {"organs": ["liver"]}.'
        raise RequestError(msg) from error
    if not isinstance(params, dict):
        msg = 'params must be a JSON object such as {"organs": ["liver"]}.'
        raise RequestError(msg)
    return params


def _organs(name: str, value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(organ, str) for organ in value):
        msg = f'{name} must be a list of organs such as ["liver", "pancreas"], or "all".'
        raise RequestError(msg)
    if not value or value == ["all"]:
        return None
    try:
        return tuple(dict.fromkeys(organ_named(organ[:60]).name for organ in value))
    except LabelError as error:
        msg = f"{name}: {error}"
        raise LabelError(msg) from None


def _flag(name: str, value: object) -> bool:
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if flag is None:
        msg = f"{name} must be true or false."
        raise RequestError(msg)
    return flag


def _extension(name: str, value: object) -> str:
    if value not in EXTENSIONS:
        msg = f"{name} must be one of {', '.join(EXTENSIONS)}."
        raise RequestError(msg)
    return str(value)


def _dtype(name: str, value: object) -> str:
    if value not in ("uint8", "uint16"):  # masks are uint8, which is what both can hold
        msg = f"{name} must be uint8: label values are 0-25."
        raise RequestError(msg)
    return "uint8"


def _device(name: str, value: object) -> str:
    if value not in ("auto", "cpu", "cuda"):
        msg = f"{name} must be auto, cpu or cuda."
        raise RequestError(msg)
    try:
        chosen_device(str(value))
    except ValueError as error:
        msg = f"{name}: {error}"
        raise RequestError(msg) from error
    return str(value)


def _ignored(_name: str, _value: object) -> None:
    return None
