"""`pasta study analyse | power`: from an export to tables and figures; how large a study must be."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from pasta.errors import PastaError

_EXTRA = ("pandas", "statsmodels", "matplotlib", "jinja2")


def add_commands(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parsers of these actions."""
    analyse = actions.add_parser("analyse", help="tables, figures and tests of an export")
    analyse.add_argument("export", type=Path, metavar="EXPORT", help="zip of `pasta study export`")
    analyse.add_argument(
        "-o", "--output", type=Path, default=Path("report"), metavar="DIR", help="default: report"
    )
    analyse.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    analyse.add_argument(
        "--exploratory", action="store_true", help="allow a study that was not locked; it is marked"
    )
    analyse.add_argument("--seed", type=int, default=0, help="of the bootstraps (default: 0)")
    analyse.set_defaults(act=_analyse)
    _add_power(actions.add_parser("power", help="simulate how often a planned study would succeed"))


def _add_power(power: argparse.ArgumentParser) -> None:
    power.add_argument(
        "--readers", type=_numbers, default=[4], metavar="N[,N...]", help="default: 4"
    )
    power.add_argument(
        "--positives",
        type=_numbers,
        default=[30],
        metavar="N[,N...]",
        help="positive cases a reader and arm (default: 30)",
    )
    power.add_argument(
        "--negatives-per-positive", type=float, default=5, metavar="X", help="default: 5"
    )
    power.add_argument(
        "--read-share",
        type=float,
        nargs=2,
        default=[1.0, 1.0],
        metavar=("SOLO", "ASSISTED"),
        help="share of the list that is read in the time given (default: 1 1; the paper's: 0.33 0.41)",
    )
    for name, words, default in (
        ("sensitivity", "%% of positives found", (70.0, 85.0)),
        ("specificity", "%% of negatives left alone", (95.0, 97.0)),
    ):
        power.add_argument(
            f"--{name}",
            type=float,
            nargs=2,
            default=list(default),
            metavar=("SOLO", "ASSISTED"),
            help=f"{words} (default: {default[0]:g} {default[1]:g})",
        )
    power.add_argument(
        "--seconds", type=float, default=120, metavar="S", help="solo, a case (default: 120)"
    )
    power.add_argument(
        "--saved", type=float, default=20, metavar="PERCENT", help="time saved (default: 20)"
    )
    power.add_argument(
        "--timed-cases",
        type=int,
        default=None,
        metavar="N",
        help="timed cases a reader and arm (default: all those read)",
    )
    for name, sd, words in (
        ("reader-sd", 0.4, "of readers, logit"),
        ("reader-arm-sd", 0.2, "of readers' gains, logit"),
        ("case-sd", 1.0, "of cases, logit"),
        ("time-reader-sd", 0.2, "of readers, log time"),
        ("time-reader-arm-sd", 0.1, "of readers' gains, log time"),
        ("time-case-sd", 0.3, "of cases, log time"),
        ("time-sd", 0.3, "of the rest, log time"),
    ):
        power.add_argument(
            f"--{name}", type=float, default=sd, metavar="SD", help=f"{words} ({sd})"
        )
    power.add_argument("--null", action="store_true", help="no effect: the tests' error rates")
    power.add_argument("--alpha", type=float, default=0.05, help="default: 0.05")
    power.add_argument("--simulations", type=int, default=1000, metavar="N", help="default: 1000")
    power.add_argument("--seed", type=int, default=0, help="default: 0")
    power.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    power.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the table, .csv or .json, or curves, .pdf or .svg",
    )
    power.set_defaults(act=_power)


def _numbers(text: str) -> list[int]:
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        msg = f"{text!r}: expected whole numbers such as 4 or 2,4,6"
        raise argparse.ArgumentTypeError(msg)
    return values


def _need_extra() -> None:
    lacking = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        msg = f"{', '.join(lacking)}: not installed. Run: pip install -c constraints.txt -e '.[study]'"
        raise PastaError(msg)


def _analyse(args: argparse.Namespace) -> int:
    _need_extra()
    from tqdm import tqdm

    from pasta.study.analysis.analyse import assemble, plan
    from pasta.study.analysis.document import check_folder, write_report
    from pasta.study.analysis.export import read_export

    check_folder(args.output, overwrite=args.overwrite)
    export = read_export(args.export)
    made = []
    stages = list(plan(export, exploratory=args.exploratory, seed=args.seed))
    with tqdm(total=len(stages) + 1, desc="analysis", unit="section", disable=None) as bar:
        for stage in stages:
            bar.set_postfix_str(stage.name)
            made.append(stage.make())
            bar.update()
        bar.set_postfix_str("figures")
        analysis = assemble(export, made)
        written = write_report(analysis, args.output, overwrite=args.overwrite)
        bar.update()
    if analysis.exploratory:
        print("Exploratory: the study was not locked before it was read.")
    for path in written:
        print(path)
    return 0


def _power(args: argparse.Namespace) -> int:
    _need_extra()
    from tqdm import tqdm

    from pasta.study.analysis.power import Plan, check_output, simulate, text_of, write_power

    if args.output is not None:
        check_output(args.output)
    plans = [
        Plan(
            readers=readers,
            positives=positives,
            negatives=round(positives * args.negatives_per_positive),
            read_share=(args.read_share[0], args.read_share[1]),
            sensitivity=_pair(args.sensitivity, null=args.null),
            specificity=_pair(args.specificity, null=args.null),
            seconds=args.seconds,
            saved=0.0 if args.null else args.saved / 100,
            timed_cases=args.timed_cases,
            reader_sd=args.reader_sd,
            reader_arm_sd=args.reader_arm_sd,
            case_sd=args.case_sd,
            time_reader_sd=args.time_reader_sd,
            time_reader_arm_sd=args.time_reader_arm_sd,
            time_case_sd=args.time_case_sd,
            time_sd=args.time_sd,
        )
        for readers in args.readers
        for positives in args.positives
    ]
    with tqdm(total=len(plans) * args.simulations, desc="studies", disable=None) as bar:
        frame = simulate(
            plans,
            simulations=args.simulations,
            alpha=args.alpha,
            seed=args.seed,
            jobs=args.jobs,
            progress=bar.update,
        )
    print(text_of(frame, args.alpha))
    if args.output is not None:
        write_power(frame, args.output)
        print(args.output)
    return 0


def _pair(percent: list[float], *, null: bool) -> tuple[float, float]:
    solo, assisted = (value / 100 for value in percent)
    return solo, solo if null else assisted
