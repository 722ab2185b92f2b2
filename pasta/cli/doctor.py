"""`pasta doctor`: looks at what a server needs, and says what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pasta.errors import PastaError
from pasta.settings import CONFIG_VARIABLE, Settings, read_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

Verdict = Literal["ok", "look", "bad"]
PYTHONS = ((3, 10), (3, 12))
ENOUGH_DISK_GB = 20.0
LEAST_DISK_GB = 2.0
EARLIEST = 1767225600.0  # 2026-01-01: a clock before that was never set


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found.

    Attributes:
        what: was looked at.
        verdict: "ok"; "look" where it may be meant so; "bad" where the server would not work.
        text: finding, and the mend where there is something to mend.
    """

    what: str
    verdict: Verdict
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument(
        "studies", nargs="?", help="folder of CTs, or address of a PACS, that is to be served"
    )
    parser.add_argument("--config", type=Path, help=f"settings (default: {CONFIG_VARIABLE})")


def run(args: argparse.Namespace) -> int:
    """Print one line a check; status 1 if something is bad."""
    bad = 0
    for found in examined(args.studies, args.config):
        print(f"{found.verdict:<5}{found.what:<12}{found.text}", flush=True)
        bad += found.verdict == "bad"
    return int(bad > 0)


def examined(studies: str | None, config: Path | None) -> Iterator[Found]:
    """Do all checks; one that fails does not keep the others from being done.

    Args:
        studies: folder or address; None leaves out what needs it.
        config: file of settings; None takes the environment.
    """
    named = config or (Path(p) if (p := os.environ.get(CONFIG_VARIABLE)) else None)
    try:
        settings = read_settings(named, os.environ)
        yield Found("settings", "ok", str(named or "defaults and environment"))
    except PastaError as error:
        settings = Settings()
        yield Found("settings", "bad", str(error).replace("\n", "\n" + " " * 17))
    checks: list[Callable[[], Iterator[Found]]] = [
        _python,
        _packages,
        lambda: _device(settings),
        lambda: _models(settings),
        _clock,
        lambda: _port(settings),
    ]
    if studies:
        remote = studies.startswith(("http://", "https://"))
        checks.append(lambda: _pacs(studies, settings) if remote else _folder(Path(studies)))
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - the doctor tells what fails, it does not fail
            what = getattr(check, "__name__", "check").strip("_")
            yield Found(what, "bad", f"could not be looked at: {type(error).__name__}: {error}")


def _python() -> Iterator[Found]:
    version = sys.version_info[:2]
    text = ".".join(map(str, sys.version_info[:3]))
    if PYTHONS[0] <= version <= PYTHONS[1]:
        yield Found("Python", "ok", text)
    else:
        yield Found("Python", "bad", f"{text}: install 3.11, then run `make setup` anew.")


def _packages() -> Iterator[Found]:
    pins = Path("constraints.txt")
    if not pins.is_file():
        yield Found("packages", "look", "not a checkout: no constraints.txt to compare with.")
        return
    other, missing = [], []
    for line in pins.read_text(encoding="utf-8").splitlines():
        name, _, wanted = line.partition("#")[0].strip().partition("==")
        if not wanted:
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found.split("+")[0] != wanted:
            other.append(f"{name} {found}, pinned {wanted}")
    if other:
        text = f"{'; '.join(other[:4])}{' ...' if len(other) > 4 else ''}. Run `make setup` anew."
        yield Found("packages", "look", text)
    else:
        extra = f" ({len(missing)} of extras are not installed)" if missing else ""
        yield Found("packages", "ok", f"as pinned{extra}")


def _device(settings: Settings) -> Iterator[Found]:
    import torch

    wants_gpu = settings.device.startswith("cuda")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield Found("device", "ok", f"torch {torch.__version__}, {', '.join(names)}")
    elif wants_gpu:
        text = (
            f'models.device is "{settings.device}", but torch {torch.__version__} sees no GPU. '
            'Install the driver or a CUDA build of torch, or set device = "auto".'
        )
        yield Found("device", "bad", text)
    else:
        text = f"torch {torch.__version__}, no GPU: {os.cpu_count()} CPU cores are used"
        yield Found("device", "ok", text)


def _models(settings: Settings) -> Iterator[Found]:
    import torch

    from pasta.networks.checkpoint import find_models

    try:
        models = find_models(settings.models)
        found = [models.segmentation, *models.screening.values(), models.attributes]
        for model in {model.folder: model for model in found if model}.values():
            model.networks(torch.device("cpu"))  # checks hash and every tensor
            name = f"{model.spec.name} {model.spec.version}"
            yield Found("weights", "ok", f"{name}, SHA-256 right")
        if models.segmentation is None:
            text = "no segmentation model: no task can run. Import one with `pasta weights import`."
            yield Found("weights", "bad", text)
    except PastaError as error:
        yield Found("weights", "bad", str(error))


def _clock() -> Iterator[Found]:
    now = time.time()
    if now < EARLIEST:
        text = "the clock was never set. Set it and keep it by NTP (systemd-timesyncd, chrony)."
        yield Found("clock", "bad", text)
        return
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    synchronised = Path("/run/systemd/timesync/synchronized").exists() or shutil.which("chronyc")
    hint = "" if synchronised else "; no NTP service seen, compare it with another machine's"
    yield Found("clock", "ok" if synchronised else "look", text + hint)


def _port(settings: Settings) -> Iterator[Found]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            text = (
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}). Stop what "
                "listens there, or choose another server.port."
            )
            yield Found("port", "bad", text)
            return
    yield Found("port", "ok", f"{settings.host}:{settings.port} is free")


def _folder(studies: Path) -> Iterator[Found]:
    if not studies.is_dir():
        yield Found("studies", "bad", f"{studies}: no such folder. Give the folder of CTs.")
        return
    if not os.access(studies, os.R_OK | os.X_OK):
        yield Found("studies", "bad", f"{studies}: cannot be read by this account. chmod it.")
        return
    from pasta.store.facts import private_folder

    own = private_folder(studies)
    where = "" if own.parent == studies else f"; read-only, so labels go to {own}"
    yield Found("studies", "ok", f"{studies}{where}")
    tokens = own / "tokens"
    if tokens.exists() and tokens.stat().st_mode & 0o077:
        yield Found("tokens", "bad", f"{tokens}: others can read it. chmod 600 it.")
    yield from _disk(own if own.exists() else studies)


def _disk(folder: Path) -> Iterator[Found]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    text = f"{free:.0f} GB free at {folder}"
    if free < LEAST_DISK_GB:
        yield Found("disk", "bad", f"{text}: labels could not be saved. Make room.")
    else:
        yield Found("disk", "ok" if free > ENOUGH_DISK_GB else "look", text)


def _pacs(address: str, settings: Settings) -> Iterator[Found]:
    from pasta.dicom.pacs_store import default_folder
    from pasta.dicom.web import Pacs

    pacs = Pacs(
        address,
        settings.pacs_user,
        settings.pacs_password,
        settings.pacs_token,
        settings.pacs_authorities,
    )
    try:
        yield Found("PACS", "ok", f"answers; {len(pacs.ct_series())} CT series")
    except PastaError as error:
        yield Found("PACS", "bad", str(error))
    yield from _disk(settings.pacs_cache or default_folder(address))
