"""Synthetic lesions: templates, plans, data sets, gallery, realism study.

    python -m training.synthesis templates --store templates import cases.csv
    python -m training.synthesis templates --store templates render --labelmap map.nii.gz --scheme pasta
    python -m training.synthesis make --store templates --plan plan --count 30000
    python -m training.synthesis export --store templates --plan plan --out data
    python -m training.synthesis gallery --store templates --plan plan --out gallery.html
    python -m training.synthesis check
    python -m training.synthesis realism-study pack --store templates --plan plan --real real.csv --out packet

docs/synthesis.md explains them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pasta.errors import PastaError

PROGRAM = "training.synthesis"
SCHEMES_HELP = (
    "pasta, totalsegmentator_v1, totalsegmentator_v2 (each also with _fast), or a JSON file of "
    "value to structure name"
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_templates(commands.add_parser("templates", help="import, render and list templates"))
    make = commands.add_parser(
        "make", help="write the recipes of a plan; continues one that is there"
    )
    _add_plan(make)
    make.add_argument("--count", type=int, default=30000, help="cases (default: %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    make.add_argument("--types", nargs="+", metavar="TYPE", help="lesion types (default: all 15)")
    make.add_argument(
        "--wish",
        nargs="+",
        default=[],
        metavar="ATTRIBUTE=OPTION",
        help='such as surface="Ill-defined margin"',
    )
    make.add_argument(
        "--multiple", action="store_true", help="as many lesions in a case as such scans have"
    )
    _add_workers(make)
    make.set_defaults(run=_make)
    export = commands.add_parser("export", help="write PASTA-Gen-30K's layout")
    _add_plan(export)
    export.add_argument("--out", type=Path, required=True, help="folder of the data set")
    export.add_argument(
        "--size",
        type=int,
        default=280,
        help="most voxels of 1 mm along an axis (default: %(default)s)",
    )
    export.add_argument("--limit", type=int, help="only the first so many cases")
    _add_workers(export)
    export.set_defaults(run=_export)
    gallery = commands.add_parser("gallery", help="one self-contained HTML page to look at")
    _add_plan(gallery)
    gallery.add_argument(
        "--out", type=Path, default=Path("gallery.html"), help="default: %(default)s"
    )
    gallery.add_argument(
        "--examples", type=int, default=4, help="of each type (default: %(default)s)"
    )
    gallery.add_argument("--real", type=Path, help="CSV of real lesions to show beside them")
    gallery.add_argument("--check", type=Path, help="JSON of `check`, to show its figures")
    gallery.set_defaults(run=_gallery)
    check = commands.add_parser(
        "check",
        help="measure the generator: meter, priors, violations, speed, diversity",
        add_help=False,
    )
    check.add_argument("arguments", nargs=argparse.REMAINDER)
    check.set_defaults(run=_check)
    _add_realism(commands.add_parser("realism-study", help="pack and score a blinded rating"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit status 2 for a foreseen error, 1 where some cases failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["check"]:  # its options are its own
        return _run_check(given[1:])
    args = build_parser().parse_args(given)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except PastaError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, help="folder of the templates")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask scheduler, such as tcp://host:8786; every worker must see the same folders",
    )
    parser.add_argument(
        "--workers", type=int, help="processes on this machine (default: one for each core)"
    )


def _add_templates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, help="folder of the templates")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace templates of the same name"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    batch = actions.add_parser("import", help="import the cases of a CSV")
    batch.add_argument("cases", type=Path, help="columns ct, labelmap, scheme, and more if wanted")
    batch.set_defaults(run=_import)
    one = actions.add_parser("add", help="import one CT with its organ labelmap")
    one.add_argument("ct", type=Path)
    one.add_argument("labelmap", type=Path)
    one.add_argument("--scheme", required=True, help=SCHEMES_HELP)
    one.add_argument("--id", default="", help="name in the store (default: from the content)")
    one.add_argument("--lesions", type=Path, help="mask of lesions that are there already")
    one.add_argument(
        "--impression", default="", help="of the report; organs it mentions stay unused"
    )
    one.add_argument("--contrast", choices=["yes", "no"], help="default: by aorta and vena cava")
    one.add_argument("--licence", default="")
    one.add_argument("--source", default="")
    one.set_defaults(run=_add)
    render = actions.add_parser("render", help="paint templates from an organ labelmap, without CT")
    render.add_argument("--labelmap", type=Path, required=True)
    render.add_argument("--scheme", required=True, help=SCHEMES_HELP)
    render.add_argument("--count", type=int, default=2, help="default: %(default)s")
    render.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    render.add_argument("--prefix", default="rendered", help="of the names (default: %(default)s)")
    render.add_argument("--contrast", choices=["yes", "no"], help="default: every other one")
    render.add_argument(
        "--random-hu", choices=["yes", "no"], help="any HU for every tissue (default: a quarter)"
    )
    render.add_argument("--licence", default="")
    render.add_argument("--source", default="")
    render.set_defaults(run=_render)
    phantom = actions.add_parser("phantom", help="draw templates from nothing but code: ten organs")
    phantom.add_argument("--count", type=int, default=2, help="default: %(default)s")
    phantom.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    phantom.add_argument("--contrast", choices=["yes", "no"], help="default: every other one")
    phantom.add_argument(
        "--range",
        nargs=2,
        type=float,
        default=(-405.0, 285.0),
        metavar="MM",
        help="lowest and highest height; 0 is T12, 50 the diaphragm (default: the whole trunk)",
    )
    phantom.set_defaults(run=_phantom)
    listing = actions.add_parser("list", help="what is there, and which organs can be used")
    listing.set_defaults(run=_list)


def _add_realism(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    pack = actions.add_parser("pack", help="real and synthetic crops 1:1 under sealed names")
    _add_plan(pack)
    pack.add_argument("--real", type=Path, required=True, help="CSV: ct, labelmap, type, value")
    pack.add_argument("--out", type=Path, required=True, help="folder of the packet, new")
    pack.add_argument("--per-type", type=int, default=30, help="real lesions of each type")
    pack.add_argument("--described", type=int, default=50, help="described lesions of each type")
    pack.add_argument("--crop", type=int, default=112, help="edge, mm (default: %(default)s)")
    pack.add_argument("--seed", type=int, default=0)
    pack.set_defaults(run=_pack)
    score = actions.add_parser("score", help="tables of Fig. 5b and 5c from the ratings")
    score.add_argument("--packet", type=Path, required=True)
    score.add_argument(
        "--ratings",
        type=Path,
        required=True,
        help="CSV of ratings, or export zip of a reader study",
    )
    score.add_argument("--out", type=Path, required=True, help="folder of the tables")
    score.set_defaults(run=_score)


_YES = {"yes": True, "no": False, None: None}


def _import(args: argparse.Namespace) -> int:
    from training.synthesis.standardisation import import_cases, read_case_list
    from training.synthesis.templates import TemplateStore

    outcomes = import_cases(
        read_case_list(args.cases),
        TemplateStore(args.store),
        overwrite=args.overwrite,
        report=_told,
    )
    failed = sum(outcome.template is None for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} cases are templates in {args.store}")
    return 1 if failed else 0


def _add(args: argparse.Namespace) -> int:
    from training.synthesis.standardisation import CaseSource, import_cases
    from training.synthesis.templates import TemplateStore

    case = CaseSource(
        args.ct,
        args.labelmap,
        args.scheme,
        args.id,
        args.lesions,
        args.impression,
        _YES[args.contrast],
        args.licence,
        args.source,
    )
    (outcome,) = import_cases(
        [case], TemplateStore(args.store), overwrite=args.overwrite, report=_told
    )
    return 0 if outcome.template else 2


def _told(outcome: object) -> None:
    from training.synthesis.standardisation import Outcome

    if not isinstance(outcome, Outcome):
        return
    if outcome.template is None:
        print(f"{outcome.case}: left out: {outcome.problem}", file=sys.stderr)
    else:
        print(f"{outcome.case}: template {outcome.template}")
    for warning in outcome.warnings:
        print(f"{outcome.case}: {warning}", file=sys.stderr)


def _render(args: argparse.Namespace) -> int:
    import numpy as np

    from training.synthesis.rendered import draw_rendering, read_structures, render_template
    from training.synthesis.templates import TemplateStore

    store = TemplateStore(args.store)
    present = set(store.ids())
    structures, names = read_structures(args.labelmap, args.scheme)
    for number in range(args.count):
        template_id = f"{args.prefix}_{args.seed}_{number}"
        if template_id in present and not args.overwrite:
            print(f"{template_id}: is there")
            continue
        rng = np.random.default_rng([args.seed, number])
        contrast = _YES[args.contrast] if args.contrast else number % 2 == 0
        recipe = draw_rendering(rng, contrast=contrast, random_hu=_YES[args.random_hu])
        template, total = render_template(
            template_id, structures, names, recipe, licence=args.licence, source=args.source
        )
        store.put(template, total, overwrite=args.overwrite)
        print(f"{template_id}: rendered, {'with' if contrast else 'without'} contrast agent")
    return 0


def _phantom(args: argparse.Namespace) -> int:
    import numpy as np

    from training.synthesis.rendered import phantom_template
    from training.synthesis.templates import TemplateStore

    store = TemplateStore(args.store)
    present = set(store.ids())
    for number in range(args.count):
        template_id = f"phantom_{args.seed}_{number}"
        if template_id in present and not args.overwrite:
            print(f"{template_id}: is there")
            continue
        contrast = _YES[args.contrast] if args.contrast else number % 2 == 0
        template, total = phantom_template(
            template_id,
            np.random.default_rng([args.seed, number]),
            contrast=bool(contrast),
            range_mm=tuple(args.range),
        )
        store.put(template, total, overwrite=args.overwrite)
        print(f"{template_id}: drawn, {'with' if contrast else 'without'} contrast agent")
    return 0


def _list(args: argparse.Namespace) -> int:
    from pasta.labels import LESIONS
    from training.synthesis.templates import TemplateStore

    store = TemplateStore(args.store)
    for template in store:
        phase = "contrast" if template.contrast else "no contrast"
        kind = "rendered" if template.rendered else "CT"
        print(
            f"{template.id}: {kind}, {template.scan_range}, {phase}, {template.licence or 'licence unknown'}"
        )
        for name in template.organs:
            usable, reason = template.usable(name)
            print(f"  {name}: {'usable' if usable else reason}")
    print("templates by lesion type:")
    for lesion in LESIONS:
        print(f"  {lesion.name}: {len(store.ids_for(lesion.name))}")
    return 0


def _make(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.synthesis.planning import ALL_TYPES, make_plan, spec_for
    from training.synthesis.templates import TemplateStore

    store = TemplateStore(args.store)
    spec = spec_for(
        store,
        args.count,
        args.seed,
        args.types or ALL_TYPES,
        _wish(args.wish),
        multiple=args.multiple,
    )
    with tqdm(total=spec.count, desc="plan", unit="case", disable=None) as bar:
        done = make_plan(
            args.plan,
            store,
            spec,
            scheduler=args.scheduler,
            workers=args.workers,
            progress=bar.update,
        )
    print(f"{args.plan}: {done.made} cases planned, {done.found} were there")
    if done.made:
        each = 1000 * done.core_seconds / done.made
        print(f"{each:.0f} ms of one core for each, {done.wall_seconds:.0f} s in all")
    for name, count in sorted(done.failed.items()):
        print(f"{name}: no template took {count} of them; the plan says why", file=sys.stderr)
    return 0


def _wish(words: Sequence[str]) -> dict[str, str]:
    from pasta.errors import ReportError
    from pasta.report.attributes import PREDICTED, option_of

    wish = {}
    for word in words:
        name, sign, option = word.partition("=")
        if not sign or name not in PREDICTED:
            msg = f"--wish {word!r}: expected ATTRIBUTE=OPTION with one of {', '.join(PREDICTED)}."
            raise ReportError(msg)
        wish[name] = option_of(name, option)
    return wish


def _export(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.synthesis.export import export_plan
    from training.synthesis.planning import read_spec
    from training.synthesis.templates import TemplateStore

    count = read_spec(args.plan).count
    with tqdm(
        total=min(count, args.limit or count), desc="export", unit="case", disable=None
    ) as bar:
        done = export_plan(
            args.plan,
            TemplateStore(args.store),
            args.out,
            size=(args.size,) * 3,
            limit=args.limit,
            scheduler=args.scheduler,
            workers=args.workers,
            progress=bar.update,
        )
    print(
        f"{args.out}: {done.written} cases written, {done.found} were there, {done.empty} have no lesion"
    )
    for number, problem in done.failed:
        print(f"case {number}: left out: {problem}", file=sys.stderr)
    return 1 if done.failed else 0


def _gallery(args: argparse.Namespace) -> int:
    from training.synthesis.gallery import write_gallery
    from training.synthesis.realism import read_real_cases
    from training.synthesis.templates import TemplateStore

    real = read_real_cases(args.real) if args.real else []
    write_gallery(
        args.plan,
        TemplateStore(args.store),
        args.out,
        examples=args.examples,
        real=real,
        check=args.check,
    )
    print(args.out)
    return 0


def _check(_args: argparse.Namespace) -> int:
    return _run_check([])


def _run_check(argv: Sequence[str]) -> int:
    from training.synthesis.check import main as check

    return int(check(argv))


def _pack(args: argparse.Namespace) -> int:
    from training.synthesis.realism import pack, read_real_cases
    from training.synthesis.templates import TemplateStore

    counts = pack(
        args.plan,
        TemplateStore(args.store),
        read_real_cases(args.real),
        args.out,
        per_type=args.per_type,
        described=args.described,
        crop_mm=args.crop,
        seed=args.seed,
    )
    for name, found in counts.items():
        print(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in found.items()))
    print(
        f"{args.out / 'images'}: for the readers. {args.out / 'sealed'}: for the coordinator alone."
    )
    return 0


def _score(args: argparse.Namespace) -> int:
    from training.synthesis.realism import read_key, read_ratings, score, write_tables

    tables = score(read_ratings(args.ratings), read_key(args.packet, args.ratings))
    write_tables(tables, args.out)
    for row in tables["realism"]:
        print(
            f"{row['type']}, {row['source']}: {row['mean']} ({row['low']}-{row['high']}), {row['cases']} cases"
        )
    for row in tables["consistency"]:
        if row["attribute"] == "all":
            print(f"{row['type']}, description: {row['mean']} ({row['low']}-{row['high']})")
    if tables["missing"]:
        print(f"{len(tables['missing'])} ratings are missing; see missing.csv", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
