"""`pasta serve`: the server on a folder of CTs, with settings that were checked first.

Runs from a checkout, as the app is not installed. The process becomes the server's, so that whatever
supervises it (systemd, a container) sees its signals and its end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.errors import PastaError
from pasta.settings import CONFIG_VARIABLE, read_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pasta.settings import Settings

APP = Path("apps") / "pasta_app"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument(
        "studies",
        help="folder of CT files, of DICOM series, one series, or a PACS (DICOMweb address)",
    )
    parser.add_argument(
        "--config", type=Path, help=f"settings (default: the file that {CONFIG_VARIABLE} names)"
    )
    parser.add_argument("--host", help="address to listen on (default: that of the settings)")
    parser.add_argument("--port", type=int, help="port (default: that of the settings)")
    parser.add_argument(
        "--check", action="store_true", help="only check the settings, and tell what they are"
    )


def run(args: argparse.Namespace) -> int:
    """Check the settings and become the server.

    Raises:
        PastaError: if a setting is wrong, or something is missing; in a sentence with its line.
    """
    environment = _environment(args)
    config = environment.get(CONFIG_VARIABLE)
    settings = read_settings(Path(config) if config else None, environment)
    if not _is_address(args.studies) and not Path(args.studies).is_dir():
        msg = f"{args.studies}: no such folder. Give the folder that holds the CTs."
        raise PastaError(msg)
    app = app_folder()
    where = f"{'https' if settings.tls_key else 'http'}://{settings.host}:{settings.port}"
    if args.check:
        print(f"The settings are in order; the server would listen on {where}.")
    else:
        print(f"PASTA-AID on {where}; tokens: {tokens_file(settings, args.studies)}", flush=True)
        os.umask(0o077)
        words = command(app, args.studies, settings.host, settings.port, settings)
        os.execve(words[0], words, environment)  # noqa: S606 - no shell is wanted
    return 0


def app_folder() -> Path:
    """Find the app in the checkout.

    Raises:
        PastaError: if this is not run from one.
    """
    for folder in (Path(), Path(__file__).resolve().parents[2]):
        if (folder / APP / "main.py").is_file():
            return (folder / APP).resolve()
    msg = f"{APP}: not found. Run this in the folder of the repository."
    raise PastaError(msg)


def command(
    app: Path, studies: str | Path, host: str, port: int, settings: Settings | None = None
) -> list[str]:
    """The words that start the server.

    Args:
        app: folder of the app.
        studies: folder of CTs, or address of a PACS.
        host: address to listen on.
        port: of it.
        settings: that TLS is taken from; None for none.
    """
    # not the script `monailabel`, which runs the first Python of the path, and splits at spaces
    words = [sys.executable, "-m", "monailabel.main", "start_server"]
    words += ["--app", str(app), "--studies"]
    words += [str(studies) if _is_address(studies) else str(Path(studies).resolve())]
    words += ["--host", host, "--port", str(port)]
    if settings and settings.tls_certificate and settings.tls_key:
        words += ["--ssl_certfile", str(settings.tls_certificate.resolve())]
        words += ["--ssl_keyfile", str(settings.tls_key.resolve())]
    return words


def tokens_file(settings: Settings, studies: str | Path) -> Path:
    """Where the server keeps its tokens."""
    from pasta.store.facts import private_folder  # here, so that --help answers at once

    if settings.tokens:
        return settings.tokens
    if _is_address(studies):
        from pasta.dicom.pacs_store import default_folder

        cache = settings.pacs_cache or default_folder(str(studies))
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        return private_folder(cache) / "tokens"
    return private_folder(Path(studies)) / "tokens"


def _is_address(studies: str | Path) -> bool:
    return str(studies).startswith(("http://", "https://"))


def _environment(args: argparse.Namespace) -> Mapping[str, str]:
    given = {
        CONFIG_VARIABLE: str(args.config.resolve()) if args.config else "",
        "PASTA_HOST": args.host or "",
        "PASTA_PORT": "" if args.port is None else str(args.port),
    }
    return {**os.environ, **{name: value for name, value in given.items() if value}}
