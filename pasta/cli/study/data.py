"""`pasta study verify | index | export`: what was read, checked and in one zip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.study.findings import StudyError

if TYPE_CHECKING:
    import argparse

_BROKEN = 1


def add_commands(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parsers of these actions."""
    verify = actions.add_parser("verify", help="look whether any byte of logs or answers changed")
    verify.add_argument("path", type=Path, metavar="PATH", help="study folder, log folder or log")
    verify.add_argument("--head", metavar="SHA256", help="of the last event, as noted elsewhere")
    verify.add_argument("--all", action="store_true", help="list every problem, not the first only")
    verify.set_defaults(act=_verify)

    index = actions.add_parser("index", help="make index.sqlite anew from the logs")
    index.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    index.set_defaults(act=_index)

    export = actions.add_parser("export", help="tables, masks and hashes as one zip, de-identified")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="ZIP", help="to write")
    export.add_argument("--store", type=Path, metavar="DIR", help="studies folder: references")
    export.add_argument("--with-text", action="store_true", help="free text, too: may name people")
    export.add_argument("--overwrite", action="store_true", help="replace a zip that is there")
    export.add_argument(
        "--exploratory", action="store_true", help="although it is not locked or was changed"
    )
    export.set_defaults(act=_export)


def _verify(args: argparse.Namespace) -> int:
    from pasta.study.archive import check
    from pasta.study.events import verify
    from pasta.study.folder import StudyFolder
    from pasta.study.lock import LOCK_FILE, check_lock
    from pasta.study.protocol import PROTOCOL_FILE

    path: Path = args.path
    if not path.exists():
        msg = f"{path}: is not there; name a study folder, a folder of logs or a log."
        raise StudyError(msg)
    problems: list[str] = []
    if path.is_dir() and (path / PROTOCOL_FILE).is_file():
        logs = sorted(StudyFolder.open(path).logs.glob("*.jsonl"))
        problems += check(path)
        problems += check_lock(path) if (path / LOCK_FILE).exists() else []
    else:
        logs = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        for log in logs:
            try:
                found = verify(log, args.head if log == path else None)
            except OSError as error:
                msg = f"{log}: cannot be read ({error.strerror})."
                raise StudyError(msg) from error
            if not found.ok:
                problems.append(f"{log.name}: event {found.first_bad_seq}: {found.reason}.")
    if not logs:
        msg = f"{path}: holds no log (*.jsonl), so there is nothing to verify."
        raise StudyError(msg)
    if problems:
        print("\n".join(problems if args.all else problems[:1]))
        print(f"{len(problems)} problem(s).", file=sys.stderr)
        return _BROKEN
    for log in logs:
        found = verify(log)
        print(f"{log.name}  {found.events} events  head {found.head}")
    print("Every event and every answer is as it was written.")
    return 0


def _index(args: argparse.Namespace) -> int:
    from pasta.study.folder import StudyFolder
    from pasta.study.index import Index

    study = StudyFolder.open(args.folder)
    print(f"{study.path / 'index.sqlite'}: {Index(study.path).rebuild()} events")
    return 0


def _export(args: argparse.Namespace) -> int:
    from pasta.store import Store
    from pasta.study.export import export
    from pasta.study.folder import StudyFolder

    if args.output.exists() and not args.overwrite:
        msg = f"{args.output}: is there already; --overwrite replaces it."
        raise StudyError(msg)
    if args.store is not None and not args.store.is_dir():
        msg = f"{args.store}: no such folder; name the server's studies folder."
        raise StudyError(msg)
    done = export(
        StudyFolder.open(args.folder),
        args.output,
        store=Store(args.store) if args.store else None,
        with_text=args.with_text,
        exploratory=args.exploratory,
    )
    for sentence in done.missing:
        print(sentence, file=sys.stderr)
    rows = ", ".join(f"{count} {name}" for name, count in done.rows.items() if name != "dictionary")
    print(f"{done.path}: {rows}\nSHA-256 {done.sha256}")
    return 0
