"""`pasta demo`, the main job of `make run`: a server, one CT through it, results in a folder.

Runs from a checkout, as the app is not installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.cli.serve import APP, command, tokens_file
from pasta.errors import OutputError, PastaError
from pasta.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pasta.client import Answer, Client
    from pasta.geometry import Volume

SAMPLE_FOLDER = "studies"
HOST = "127.0.0.1"
START_SECONDS = 240  # importing everything from a cold disk takes a minute
STOP_SECONDS = 20
LOG_LINES = 15
TASKS = ("segmentation", "screening", "report")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument(
        "studies",
        type=Path,
        nargs="?",
        default=Path(SAMPLE_FOLDER),
        help="folder of CT files, of DICOM series, or one series (default: %(default)s; a sample "
        "is drawn there if it is empty)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out"), help="default: out")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--oneshot", action="store_true", help="stop after the case")
    parser.add_argument("--seed", type=int, default=7, help="of the sample study (default: 7)")


def run(args: argparse.Namespace) -> int:
    """Serve, run one case through all tasks, check and write it, keep serving.

    Raises:
        PastaError: if anything is missing, wrong or refused; in one sentence.
    """
    from pasta.client import Client

    if not APP.is_dir():
        msg = f"{APP}: not found. Run `make run` in the folder of the repository."
        raise PastaError(msg)
    settings = Settings.from_environment()  # a mistake is told here, not in the server's log
    _die_with_parent_make()
    _prepare_studies(args.studies, args.seed)
    _refuse_busy_port(args.port)
    client = Client(f"http://{HOST}:{args.port}")
    with _signals_as_interrupt(), _server(args.studies, args.output, args.port) as server:
        _wait_until_healthy(client, server, args.output / "server.log")
        _run_case(client, args.studies, args.output)
        print(_how_to_connect(client.url, tokens_file(settings, args.studies)))
        if args.oneshot:
            return 0
        print("Serving until Ctrl-C.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            msg = f"the server stopped; see {args.output / 'server.log'}."
            raise PastaError(msg)
    return 0


def _prepare_studies(studies: Path, seed: int) -> None:
    """Draw the sample study into an empty `studies`; refuse any other folder without a CT."""
    from pasta.io import find_volumes

    if studies.is_file():
        msg = f"{studies}: is a file. Give the folder that holds it."
        raise PastaError(msg)
    if studies.is_dir() and find_volumes(studies):
        return
    if studies != Path(SAMPLE_FOLDER):
        lacks = "holds no CT" if studies.is_dir() else "no such folder"
        msg = f"{studies}: {lacks}. Put NIfTI, NRRD or MetaImage files or DICOM series there."
        raise PastaError(msg)
    print("No CT in studies/: drawing a sample study (a phantom, nobody's scan).", flush=True)
    command = [sys.executable, "-m", "training.synthesis.phantom"]
    status = subprocess.run(  # noqa: S603 - our own module
        [*command, "--out", str(studies), "--seed", str(seed)], check=False
    ).returncode
    if status:
        msg = "the sample study could not be drawn; the lines above say why."
        raise PastaError(msg)


def _refuse_busy_port(port: int) -> None:
    with socket.socket() as probe:
        # as the server does: a port that has just been left may be taken again
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            msg = (
                f"port {port} of {HOST} cannot be used ({error}). "
                "Stop the other program, or choose another port: make run PORT=8001"
            )
            raise PastaError(msg) from error


def _die_with_parent_make() -> None:
    """Under make, get a signal when make dies, also by kill -9."""
    if os.environ.get("MAKELEVEL") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _die_with_parent() -> None:
    """In the server's process: get a signal when this command dies, also by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: the server goes first."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _server(studies: Path, output: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server; stop it in every case."""
    words = command(APP.resolve(), studies, HOST, port)
    try:
        output.mkdir(parents=True, exist_ok=True)
        log = (output / "server.log").open("wb")
    except OSError as error:
        msg = f"{output}: cannot be written ({error.strerror}). Choose another with --output."
        raise OutputError(msg) from error
    with log:
        server = subprocess.Popen(  # noqa: S603 - our own module and checked numbers
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to this command, which stops the server in turn
            preexec_fn=_die_with_parent,
        )
        try:
            yield server
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)  # whatever it started and left
    server.wait()


def _wait_until_healthy(client: Client, server: subprocess.Popen[bytes], log: Path) -> None:
    from tqdm import tqdm

    from pasta.client import ServerError

    began = time.monotonic()
    with tqdm(desc="server starts", bar_format="{desc}: {elapsed} {postfix}", disable=None) as bar:
        while True:
            with contextlib.suppress(ServerError):
                health = client.health()
                break
            if server.poll() is not None:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                print("\n".join(lines[-LOG_LINES:]), file=sys.stderr)
                msg = f"the server did not start; its last lines are above, all of them in {log}."
                raise PastaError(msg)
            if time.monotonic() - began > START_SECONDS:
                msg = f"the server did not answer within {START_SECONDS} s; see {log}."
                raise PastaError(msg)
            time.sleep(0.5)
            bar.update()
    missing = [
        f"{name}: {state.get('reason', '')}"
        for name, state in health["models"].items()
        if not state["ready"]
    ]
    if missing:
        msg = f"not ready: {' '.join(missing)}"
        raise PastaError(msg)


def _run_case(client: Client, studies: Path, output: Path) -> None:
    """Send the first case through the tasks; check and write what arrives."""
    from pasta.casework import write_results
    from pasta.io import read_volume
    from pasta.store import Store

    image = _first_image(client)
    answers = {}
    mask_of_segmentation = {"label_tag": "original", "reader": "pasta_segmentation"}
    answers["segmentation"] = _followed(
        client, image, "segmentation", {"save_label": True, "label_tag": "original"}
    )
    for task in TASKS[1:]:
        answers[task] = _followed(client, image, task, mask_of_segmentation)
    volume = read_volume(Store(studies).image(image).path)
    folder = output / image
    labelmap = checked(volume, answers, folder)
    documents = {task: answer.document for task, answer in answers.items()}
    print(f"\n{image}: all tasks answered and checked. Results:")
    for path in write_results(folder, volume, labelmap, documents):
        print(f"  {path}")


def _first_image(client: Client) -> str:
    images = sorted(str(image["id"]) for image in client.images())
    if not images:
        msg = "the server lists no image; see whether the studies folder holds a CT."
        raise PastaError(msg)
    # the richer of the two samples first
    return next((image for image in images if image == "sample_portal_venous"), images[0])


def _followed(client: Client, image: str, task: str, parameters: dict[str, Any]) -> Answer:
    from tqdm import tqdm

    form = "{l_bar}{bar}| {elapsed} {postfix}"
    with tqdm(total=100, desc=f"{task:<12}", bar_format=form, disable=None) as bar:

        def progress(fraction: float, stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update(max(round(100 * fraction) - bar.n, 0))

        return client.infer(f"pasta_{task}", image, parameters, progress=progress)


def checked(volume: Volume, answers: dict[str, Answer], folder: Path) -> Volume:
    """Check what came over HTTP.

    Args:
        volume: the CT, read from its file.
        answers: of the three tasks.
        folder: where the mask as it came is put, as `mask.nii.gz`.

    Returns:
        The mask.

    Raises:
        PastaError: if the mask is missing or does not lie on the CT's own grid, its labels are not
            those the document names, a document is of another CT, or the report cannot be read.
    """
    from pasta.inference.result import labels_found
    from pasta.io import read_labelmap
    from pasta.io.files import atomic_file
    from pasta.report import from_document

    mask = answers["segmentation"].image
    if not mask:
        msg = "segmentation: the answer holds no mask; see the server's log."
        raise PastaError(msg)
    path = folder / "mask.nii.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot be made ({error.strerror}). Choose another with --output."
        raise OutputError(msg) from error
    with atomic_file(path) as file:
        file.write(mask)
    labelmap = read_labelmap(path)
    if not labelmap.grid.matches(volume.grid):
        msg = f"{path}: grid {labelmap.grid.shape} is not the CT's own, {volume.grid.shape}."
        raise PastaError(msg)
    if labels_found(labelmap) != answers["segmentation"].document.get("labels"):
        msg = f"{path}: its labels are not those that the segmentation's JSON names."
        raise PastaError(msg)
    for task, answer in answers.items():
        document = answer.document
        if document.get("input_sha256") != volume.sha256:
            msg = f"{task}: the JSON names another input than {folder.name} (SHA-256 differs)."
            raise PastaError(msg)
        if not document.get("notice") or not document.get("model"):
            msg = f"{task}: the JSON lacks its notice or the models it comes from."
            raise PastaError(msg)
    if not answers["screening"].document.get("organs"):
        msg = "screening: the JSON names no organ."
        raise PastaError(msg)
    from_document(answers["report"].document.get("report"))
    return labelmap


def _how_to_connect(url: str, tokens: Path) -> str:
    return (
        f"\nServer: {url}  (API: {url}/docs)\n"
        f"Tokens: {tokens}\n  Programs of this account on this machine find the reader's by "
        "themselves; elsewhere it is typed in.\n"
        "3D Slicer: add slicer_extension/PASTAAid to the module paths (Edit > Application Settings > "
        f"Modules),\n  restart, open the module PASTA-AID, enter {url} as server, Test connection."
    )
