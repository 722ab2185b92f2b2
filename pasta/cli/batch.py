"""`pasta batch`: thousands of CTs to masks, reports, one table and a screening worklist."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.cli.predict import TASKS
from pasta.errors import LabelError, OutputError

if TYPE_CHECKING:
    import argparse

    from pasta.batch.folder import BatchFolder
    from pasta.batch.running import Outcome

WORKLIST = "worklist"
SHOWN_FAILURES = 20
SOME_FAILED = 1  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.usage = (
        "pasta batch FOLDER_OR_LIST -o DIR [options]\n"
        "       pasta batch worklist RESULTS.parquet [-o FILE.csv] [--threshold ORGAN=P ...]"
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="FOLDER_OR_LIST",
        help="folder of CTs, or a text file with one path a line; or the word worklist",
    )
    parser.add_argument(
        "results", type=Path, nargs="?", metavar="RESULTS.parquet", help="after worklist"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for the results; of worklist: the CSV file"
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all"
    )
    parser.add_argument("--organs", nargs="+", metavar="ORGAN", help="only these organs")
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="of a Dask cluster")
    parser.add_argument(
        "--workers", type=int, help="processes here (default: one a GPU, else one for two cores)"
    )
    parser.add_argument("--models", type=Path, help="folder of models (default: those shipped)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--overlap", type=float, default=0.5, help="of sliding windows")
    parser.add_argument("--mirror", action="store_true", help="average eight flips; 8 times slower")
    parser.add_argument(
        "--pictures", action="store_true", help="also write overview.png and mask.seg.nrrd"
    )
    parser.add_argument("--overwrite", action="store_true", help="do cases of other settings again")
    parser.add_argument(
        "--threshold",
        nargs="+",
        default=[],
        metavar="ORGAN=P",
        help="of the worklist (default: 0.5 for each organ)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the batch, or write a worklist from its table.

    Returns:
        0 where all cases are done, 1 where some failed.

    Raises:
        PastaError: for bad arguments, missing weights or an output that cannot be written.
        KeyboardInterrupt: on Ctrl-C, once the tables hold what is done.
    """
    thresholds = _thresholds(args.threshold)
    if args.results is not None:
        if str(args.source) != WORKLIST:
            msg = f"{args.results}: one argument too many. Name one folder or list of CTs."
            raise OutputError(msg)
        return _worklist(
            args.results, args.output or args.results.with_name("worklist.csv"), thresholds
        )
    if args.output is None:
        msg = "name a folder for the results with -o."
        raise OutputError(msg)
    return _batch(args, thresholds)


def _batch(args: argparse.Namespace, thresholds: dict[str, float]) -> int:
    from tqdm import tqdm

    from pasta.batch.cases import find_cases
    from pasta.batch.folder import BatchFolder
    from pasta.batch.running import Settings, run_batch
    from pasta.batch.tables import require_arrow

    require_arrow()  # now, not after a night of work
    cases = find_cases(args.source)
    settings = Settings(
        tuple(task for task in TASKS if task in args.tasks),
        tuple(args.organs or ()),
        args.models and args.models.absolute(),
        args.overlap,
        args.mirror,
        args.pictures,
    )
    folder = BatchFolder(args.output)
    ids = [case.id for case in cases]
    began = False
    failures = 0
    try:
        with tqdm(total=len(cases), unit="CT", disable=None, smoothing=0.05) as bar:

            def begun(before: int) -> None:
                nonlocal began
                began = True
                bar.initial = before  # so that the speed, and the time left, are those of now
                bar.n = before
                bar.refresh()
                if before:
                    tqdm.write(f"{before} of {len(cases)} are done already.", file=sys.stderr)

            def told(outcome: Outcome) -> None:
                nonlocal failures
                if outcome.reason:
                    failures += 1
                    bar.set_postfix_str(f"{failures} failed", refresh=False)
                    tqdm.write(f"{outcome.case}: {outcome.reason}", file=sys.stderr)
                bar.update()

            summary = run_batch(
                cases,
                args.output,
                settings,
                scheduler=args.scheduler,
                workers=args.workers,
                device=args.device,
                overwrite=args.overwrite,
                begun=begun,
                told=told,
            )
    except BaseException:
        if began:
            _tables(folder, ids, thresholds, "screening" in settings.tasks)
            print("Stopped. The same command goes on from here.", file=sys.stderr)
        raise
    _tables(folder, ids, thresholds, "screening" in settings.tasks)
    print(
        f"{len(cases)} CTs: {summary.done} done now, {summary.before} before, "
        f"{len(summary.failed)} failed."
    )
    for outcome in summary.failed[:SHOWN_FAILURES]:
        print(f"  {outcome.case:<30} {outcome.reason}")
    if len(summary.failed) > SHOWN_FAILURES:
        print(f"  and {len(summary.failed) - SHOWN_FAILURES} more in failures.csv")
    return SOME_FAILED if summary.failed else 0


def _tables(
    folder: BatchFolder, ids: list[str], thresholds: dict[str, float], screening: bool
) -> None:
    from pasta.batch.tables import write_tables

    for path in write_tables(folder, ids):
        print(path)
    if screening:
        _worklist(folder.path / "results.parquet", folder.path / "worklist.csv", thresholds)


def _worklist(results: Path, output: Path, thresholds: dict[str, float]) -> int:
    from pasta.batch.worklist import write_worklist

    rows = write_worklist(results, output, thresholds)
    above = [row for row in rows if row["above_threshold"] == "yes"]
    stated = sorted({f"{row['organ']} {row['threshold']}" for row in rows if row["organ"]})
    print(f"{output}: {len(above)} of {len(rows)} at or above the threshold ({', '.join(stated)})")
    return 0


def _thresholds(words: list[str]) -> dict[str, float]:
    found = {}
    for word in words:
        organ, _, value = word.partition("=")
        try:
            found[organ] = float(value)
        except ValueError as error:
            msg = f"--threshold {word}: write ORGAN=PROBABILITY, such as liver=0.3."
            raise LabelError(msg) from error
    return found
