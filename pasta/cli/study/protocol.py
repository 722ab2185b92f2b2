"""`pasta study new | check | allocate | lock | codes`: from an example to a locked study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.study.findings import StudyError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pasta.study.folder import StudyFolder

_WRONG = 1


def add_commands(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parsers of these actions."""
    new = actions.add_parser("new", help="write an example study folder, with comments")
    new.add_argument("folder", type=Path, metavar="FOLDER", help="to make")
    new.set_defaults(act=_new)

    check = actions.add_parser("check", help="explain every mistake, with its line")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="of the study, or protocol.toml")
    check.add_argument(
        "--store", type=Path, metavar="DIR", help="studies folder: are images there?"
    )
    check.set_defaults(act=_check)

    allocate = actions.add_parser("allocate", help="draw who reads what, and show how even it is")
    allocate.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    allocate.add_argument("--show", action="store_true", help="show the one that is there")
    allocate.set_defaults(act=_allocate)

    codes = actions.add_parser("codes", help="make login codes; each is shown this once")
    codes.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    codes.add_argument("readers", nargs="*", metavar="READER", help="pseudonyms; default: all")
    codes.set_defaults(act=_codes)

    lock = actions.add_parser("lock", help="fix protocol, cases, allocation and weights for good")
    lock.add_argument("folder", type=Path, metavar="FOLDER", help="of the study")
    lock.add_argument("--models", type=Path, metavar="DIR", help="default: as the server's")
    lock.add_argument("--store", type=Path, metavar="DIR", help="studies folder: lock references")
    lock.add_argument("--status", action="store_true", help="only say what changed since")
    lock.set_defaults(act=_lock)


def _new(args: argparse.Namespace) -> int:
    from pasta.study.cases import CASES_FILE
    from pasta.study.example import example_cases, example_protocol
    from pasta.study.folder import make_key
    from pasta.study.protocol import PROTOCOL_FILE

    folder: Path = args.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder}: is there already; name a folder that is new or empty."
        raise StudyError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROTOCOL_FILE).write_text(example_protocol(), encoding="utf-8")
        (folder / CASES_FILE).write_text(example_cases(), encoding="utf-8")
    except OSError as error:
        msg = f"{folder}: cannot be written ({error.strerror})."
        raise StudyError(msg) from error
    make_key(folder)
    print(
        f"{folder}: protocol.toml (an example: edit it), cases.csv (replace its rows by your own), "
        f"study.key (secret: keep a copy).\nThen: pasta study check {folder}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    from pasta.study.cases import CASES_FILE
    from pasta.study.protocol import PROTOCOL_FILE, check_protocol

    protocol: Path = args.folder if args.folder.is_file() else args.folder / PROTOCOL_FILE
    findings = check_protocol(protocol, protocol.with_name(CASES_FILE))
    errors = sum(finding.severity == "error" for finding in findings)
    for finding in findings:
        print(finding)
    if not errors and args.store:
        missing = _missing_images(protocol, args.store)
        errors += len(missing)
        for line in missing:
            print(line)
    if errors:
        print(f"{errors} mistake(s); mend them and check again.", file=sys.stderr)
        return _WRONG
    print(_summary(protocol))
    return 0


def _missing_images(protocol: Path, store: Path) -> list[str]:
    from pasta.store import Store
    from pasta.study.cases import CASES_FILE, read_cases
    from pasta.study.protocol import read_protocol

    if not store.is_dir():
        msg = f"{store}: no such folder; name the server's studies folder."
        raise StudyError(msg)
    known = Store(store).images()
    cases = read_cases(protocol.with_name(CASES_FILE), read_protocol(protocol))
    return [
        f'{CASES_FILE}: image: "{image}" is not in the store.'
        for image in dict.fromkeys(case.image for case in cases)
        if image not in known
    ]


def _summary(path: Path) -> str:
    from pasta.study.cases import CASES_FILE, cases_of, read_cases
    from pasta.study.protocol import read_protocol

    protocol = read_protocol(path)
    cases = read_cases(path.with_name(CASES_FILE), protocol)
    lines = [f"{protocol.id}: {len(protocol.readers)} readers, {len(protocol.parts)} part(s)."]
    for part in protocol.parts:
        counts = ", ".join(f"{organ} {len(cases_of(part, organ, cases))}" for organ in part.organs)
        lines.append(f"  {part.name} ({part.task}; {' and '.join(part.arms)}): {counts} cases")
    return "\n".join([*lines, "No mistakes."])


def _allocate(args: argparse.Namespace) -> int:
    from pasta.study.allocation import diagnostics
    from pasta.study.folder import StudyFolder, write_allocation

    study = StudyFolder.open(args.folder)
    allocation = study.allocation if args.show else write_allocation(args.folder)
    rows = diagnostics(allocation, study.cases)
    print(_table(rows))
    twice = sum(row["both_arms"] for row in rows)
    single = sum(row["one_arm_only"] for row in rows)
    print(
        f"{len(rows)} blocks, {sum(row['cases'] for row in rows)} reads. Reads of a case that the "
        f"same reader has in both arms: {twice}. Reads of a case that nobody has in the other arm: "
        f"{single}."
    )
    return 0


def _codes(args: argparse.Namespace) -> int:
    from pasta.study.folder import new_codes

    codes = new_codes(args.folder, args.readers or None)
    print("\n".join(f"{reader}  {code}" for reader, code in codes.items()))
    print(
        "Give each reader his own; only hashes are kept, so this is the last time they are shown.",
        file=sys.stderr,
    )
    return 0


def _lock(args: argparse.Namespace) -> int:
    from pasta.networks.checkpoint import find_models
    from pasta.study.folder import StudyFolder
    from pasta.study.lock import check_lock, lock

    study = StudyFolder.open(args.folder)
    weights = find_models(args.models).weights_sha256
    references = None if args.store is None else _references(study, args.store)
    if args.status:
        problems = check_lock(args.folder, weights, references)
        print("\n".join(problems) or "Locked, and nothing changed since.")
        return _WRONG if problems else 0
    tagged = {c.image for c in study.cases if c.reference_mask and not c.reference_file}
    if tagged and len(references or {}) < len(tagged):
        print(
            f"{len(tagged) - len(references or {})} reference mask(s) in the store are not locked; "
            "--store DIR locks those that are there.",
            file=sys.stderr,
        )
    made = lock(args.folder, weights, references)
    print(
        f"locked {made.utc}: {made.sha256}\nWrite this line down or send it to somebody: "
        "with it, a lock that was made anew shows."
    )
    return 0


def _references(study: StudyFolder, folder: Path) -> dict[str, str]:
    from pasta.store import Store
    from pasta.study.export import references_in

    if not folder.is_dir():
        msg = f"{folder}: no such folder; name the server's studies folder."
        raise StudyError(msg)
    return references_in(study, Store(folder))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    lines = [[name.ljust(w) for name, w in zip(names, widths, strict=True)]]
    lines += [[str(row[n]).ljust(w) for n, w in zip(names, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
