"""`python -m training.synthesis check`: the numbers that synthesis is held to, measured.

Draws lesions of every type into the templates of a store and prints: what the meter reads of what
was intended (first drawings, no loop), sizes and shapes against the measured priors, broken rules,
milliseconds, and the variety of texture beside that of plain darkening on the same masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops

from pasta.errors import OutputError, PastaError
from pasta.labels import label_named
from pasta.report.attributes import PREDICTED
from training.synthesis.guards import broken_rules, replaced_voxels
from training.synthesis.loop import accepted, measure
from training.synthesis.noise import taken
from training.synthesis.priors import CYSTS, MEASURED, PRIORS, STONES
from training.synthesis.recipe import Recipe, RecipeError
from training.synthesis.recipes import apply, draw
from training.synthesis.templates import Template, TemplateStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pasta.meter import Measurements
    from training.synthesis.recipe import Result

METER_MM = 12.0  # smallest lesion that attributes are judged on
WANTED = {"shape": 0.95, "density": 0.95, "heterogeneity": 0.9, "surface": 0.9, "invasion": 0.85}
TOLERANCE = 0.10
PLANNED, CORES, PLANNED_MINUTES = 30_000, 2, 60.0
PCA_SHRINK = 0.846  # of the ratios of principal axes; as the priors were measured


@dataclass
class Tally:
    """What was counted over all lesions."""

    pairs: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))
    facts: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    broken: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    replaced: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    differ: int = 0
    ours: list[NDArray[np.float64]] = field(default_factory=list)
    plain: list[NDArray[np.float64]] = field(default_factory=list)


def balanced_accuracy(pairs: Counter[tuple[str, str]]) -> float:
    """Mean over the intended options of the share that was measured so."""
    of: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (intended, found), count in pairs.items():
        of[intended][0] += count * (intended == found)
        of[intended][1] += count
    return float(np.mean([right / total for right, total in of.values()])) if of else float("nan")


def mask_facts(recipe: Recipe, result: Result, found: Measurements) -> dict[str, float]:
    """Size and shape of a mask as the priors were measured: D, axis scatter, sphericity, contact."""
    places = np.argwhere(result.mask).astype(np.float64)
    facts = {"diameter_mm": found.diameter_mm}
    shape = found.attributes["shape"].numbers
    if "sphericity" in shape:
        facts["sphericity"] = shape["sphericity"]
    if len(places) >= 30:
        spread = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(places.T)) + 1 / 12, 1e-3))
        logs = np.log(spread)
        facts["axis_sd"] = float(np.sqrt(((logs - logs.mean()) ** 2).mean()) / PCA_SHRINK)
    shell = ndimage.binary_dilation(result.mask) & ~result.mask
    if shell.any():
        organ = label_named(recipe.organ).value
        facts["contact"] = float((result.labels[shell] == organ).mean())
    return facts


def darkened(result: Result, template: Template, rng: np.random.Generator) -> NDArray[np.float32]:
    """Darken a mask the plain way: blurred mask times thresholded noise times 65-145 HU.

    What SyntheticTumors (Hu et al., CVPR 2023) publishes of its texture, made again from its
    numbers; the baseline for variety.
    """
    noise = taken(result.mask.shape, float(rng.uniform(3, 15)), rng)
    specks = rng.random(noise.shape) < np.clip(0.15 + 0.033 * noise, 0.05, 0.25)
    texture = ndimage.gaussian_filter(specks.astype(np.float32), float(rng.choice((4, 7))))
    texture = np.clip(texture / max(1e-6, float(texture.mean())) * rng.uniform(0.5, 0.55), 0, 1)
    soft = ndimage.gaussian_filter(result.mask.astype(np.float32), float(rng.uniform(1, 2)))
    hu = template.hu[result.box].astype(np.float32)
    return np.asarray(hu - texture * soft * np.float32(rng.uniform(65, 145)), dtype=np.float32)


def texture_features(hu: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """28 features: 12 of the histogram, and 4 of the co-occurrence of grey levels at 4 distances.

    Grey levels are 10 HU wide from -200 HU; co-occurrence is read in the axial slice with most of
    the lesion, in four directions.
    """
    values = hu[mask].astype(np.float64)
    chances = np.histogram(values, bins=32)[0] / values.size
    chances = chances[chances > 0]
    low, ten, half, ninety, high = np.percentile(values, (0, 10, 50, 90, 100))
    first = [
        values.mean(), values.std(), stats.skew(values), stats.kurtosis(values), low, ten, half,
        ninety, high, high - low, -(chances * np.log2(chances)).sum(), np.sqrt((values**2).mean()),
    ]  # fmt: skip
    k = int(mask.sum(axis=(0, 1)).argmax())
    levels = np.clip((hu[:, :, k] + 200) // 10, 0, 62).astype(np.uint8) + 1
    levels = np.where(mask[:, :, k], levels, 0).astype(np.uint8)
    rows, columns = np.flatnonzero(mask[:, :, k].any(1)), np.flatnonzero(mask[:, :, k].any(0))
    crop = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    counts = graycomatrix(  # type: ignore[no-untyped-call]
        crop, [1, 2, 3, 5], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], levels=64, symmetric=True
    ).astype(np.float64)
    counts[0], counts[:, 0] = 0, 0
    counts /= np.maximum(counts.sum(axis=(0, 1), keepdims=True), 1)
    second = [
        graycoprops(counts, name).mean(axis=1)  # type: ignore[no-untyped-call]
        for name in ("contrast", "homogeneity", "energy", "correlation")
    ]
    return np.asarray(np.nan_to_num(np.concatenate([first, *second])), dtype=np.float64)


def mean_variance(
    ours: Sequence[NDArray[np.float64]], other: Sequence[NDArray[np.float64]]
) -> tuple[float, float]:
    """Mean variance of features, z-scored over both samples together."""
    both = np.array([*ours, *other])
    z = (both - both.mean(axis=0)) / np.maximum(both.std(axis=0), 1e-9)
    n = len(ours)
    return float(z[:n].var(axis=0).mean()), float(z[n:].var(axis=0).mean())


def tallied(
    store: TemplateStore, types: Sequence[str], per_type: int, seed: int, tell: bool = True
) -> Tally:
    """Draw and measure lesions of each type, spread over the templates that take it."""
    tally = Tally()
    loaded: dict[str, Template] = {}
    for label in types:
        ids = store.ids_for(label)
        if not ids and tell:
            print(f"{label}: no template of the store takes it", file=sys.stderr)
        rng = np.random.default_rng((seed, label_named(label).value))
        for n in range(per_type if ids else 0):
            name = ids[n % len(ids)]
            template = loaded.setdefault(name, store.load(name))
            try:
                _one(label, template, rng, tally)
            except RecipeError as error:
                tally.broken[label]["not drawn: " + str(error).split(", ", 1)[-1]] += 1
    return tally


def _one(label: str, template: Template, rng: np.random.Generator, tally: Tally) -> None:
    begun = time.process_time()
    recipe = draw(label, template, rng)
    result = apply(recipe, template)
    drawn = time.process_time()
    found = measure(recipe, result, template)
    done = time.process_time()
    tally.drawn[label] += 1
    tally.seconds[label].append((drawn - begun, done - drawn))
    tally.facts[label].append(mask_facts(recipe, result, found))
    for rule in broken_rules(recipe, result, template):
        tally.broken[label][rule] += 1
    if not label_named(label).malignant:
        tally.replaced[label] += int(replaced_voxels(recipe, result, template) > 0)
    if found.diameter_mm >= METER_MM:
        for name in PREDICTED:
            value = found.attributes[name].value
            if value is not None:
                tally.pairs[name][recipe.wish[name], value] += 1
    if tally.drawn[label] % 10 == 1:
        again = apply(Recipe.from_json(recipe.to_json()), template)
        same = np.array_equal(again.hu, result.hu) and np.array_equal(again.mask, result.mask)
        tally.differ += not same
    if label == "liver_tumor" and found.diameter_mm >= METER_MM:
        inside = result.mask & (template.labels[result.box] == label_named("liver").value)
        if inside.sum() >= 200:  # where the mask leaves the liver, the baseline shows fat
            tally.ours.append(texture_features(result.hu, inside))
            tally.plain.append(texture_features(darkened(result, template, rng), inside))


def looped_seconds(
    store: TemplateStore, types: Sequence[str], each: int, seed: int
) -> tuple[float, float, float]:
    """Mean CPU seconds of the whole loop, mean drawings, share relabelled, over types alike."""
    times, tries, changed = [], [], []
    loaded: dict[str, Template] = {}
    for label in types:
        ids = store.ids_for(label)
        rng = np.random.default_rng((seed, 7, label_named(label).value))
        for n in range(each if ids else 0):
            name = ids[n % len(ids)]
            template = loaded.setdefault(name, store.load(name))
            try:
                accepted(label, template, rng)  # what a worker keeps of a template is not counted
                begun = time.process_time()
                kept = accepted(label, template, rng)
            except RecipeError:
                continue
            times.append(time.process_time() - begun)
            tries.append(kept.attempts)
            changed.append(bool(kept.relabelled))
    return float(np.mean(times)), float(np.mean(tries)), float(np.mean(changed))


def against_priors(tally: Tally) -> list[dict[str, Any]]:
    """Compare the measured types with their priors; the relative difference of each figure."""
    rows = []
    for label in MEASURED:
        facts = tally.facts.get(label, [])
        if len(facts) < 10:
            continue
        prior = PRIORS[label]
        low, high = prior.limits_mm
        normal = np.exp(np.random.default_rng(0).normal(*prior.diameter, 20_000))
        sizes = normal[(normal >= low) & (normal <= high)]
        measured = np.array([f["diameter_mm"] for f in facts])
        wanted: list[tuple[str, float, float]] = [
            (f"D q{q}", float(np.percentile(measured, q)), float(np.percentile(sizes, q)))
            for q in (25, 50, 75)
        ]
        scatter = np.array([f["axis_sd"] for f in facts if "axis_sd" in f])
        wanted.append(("s_a", float(np.sqrt((scatter**2).mean())), prior.axis_sd))
        psi = np.array([f["sphericity"] for f in facts if "sphericity" in f])
        wanted += [
            (f"sphericity q{q}", float(np.percentile(psi, q)), prior.sphericity[n])
            for n, q in ((1, 25), (2, 50), (3, 75))
        ]
        contact = np.array([f["contact"] for f in facts if "contact" in f])
        wanted.append(("contact q50", float(np.median(contact)), prior.contact[1]))
        rows += [
            {"type": label, "figure": name, "found": round(a, 3), "prior": round(b, 3),
             "difference": round(a / b - 1, 3), "within": bool(abs(a / b - 1) <= TOLERANCE)}
            for name, a, b in wanted
        ]  # fmt: skip
    return rows


def summary(tally: Tally, loop: tuple[float, float, float] | None) -> dict[str, Any]:
    """All figures as one JSON document."""
    walls = {"gallbladder_cancer", "esophageal_cancer", "gastric_cancer", "colorectal_cancer",
             "bladder_cancer"}  # fmt: skip

    def milliseconds(types: Sequence[str]) -> list[float]:
        return [1000 * a for t in types for a, _ in tally.seconds.get(t, [])]

    kinds = {
        "parenchymal": [t for t in PRIORS if t not in walls and t not in STONES],
        "wall": sorted(walls),
        "stone": list(STONES),
    }
    meter = [1000 * b for pairs in tally.seconds.values() for _, b in pairs]
    document: dict[str, Any] = {
        "lesions": dict(tally.drawn),
        "meter": {
            name: {
                "balanced_accuracy": round(balanced_accuracy(tally.pairs[name]), 3),
                "wanted": wanted,
                "n": sum(tally.pairs[name].values()),
                "confusion": [[a, b, n] for (a, b), n in sorted(tally.pairs[name].items())],
            }
            for name, wanted in WANTED.items()
        },
        "priors": against_priors(tally),
        "benign_violations": {t: tally.replaced[t] for t in (*CYSTS, *STONES) if tally.drawn[t]},
        "broken_rules": {t: dict(c) for t, c in tally.broken.items() if c},
        "median_ms": {
            kind: round(float(np.median(milliseconds(types))), 1)
            for kind, types in kinds.items()
            if milliseconds(types)
        },
        "median_meter_ms": round(float(np.median(meter)), 1) if meter else None,
        "replays_that_differ": tally.differ,
    }
    if len(tally.ours) >= 5:
        ours, plain = mean_variance(tally.ours, tally.plain)
        document["mean_variance"] = {
            "ours": round(ours, 2), "baseline": round(plain, 2), "masks": len(tally.ours)
        }  # fmt: skip
    if loop is not None:
        seconds, tries, changed = loop
        document["loop"] = {
            "seconds_per_lesion": round(seconds, 3),
            "drawings_per_lesion": round(tries, 2),
            "relabelled": round(changed, 3),
            "minutes_for_30000_on_2_cores": round(PLANNED * seconds / CORES / 60, 1),
        }
    return document


def printed(document: dict[str, Any]) -> list[str]:
    """Write the figures as lines."""
    lines = [f"{sum(document['lesions'].values())} lesions, first drawings", ""]
    for name, item in document["meter"].items():
        verdict = "ok" if item["balanced_accuracy"] >= item["wanted"] else "BELOW"
        lines.append(
            f"meter {name:13} balanced accuracy {item['balanced_accuracy']:.3f} "
            f"(>= {item['wanted']:.2f}, D >= {METER_MM:.0f} mm, n {item['n']}) {verdict}"
        )
        lines += [f"    {a} -> {b}: {n}" for a, b, n in item["confusion"] if a != b]
    lines += [""] + [
        f"prior {row['type']:16} {row['figure']:15} {row['found']:8.2f} wanted {row['prior']:8.2f} "
        f"({row['difference']:+.1%}) {'ok' if row['within'] else 'OUTSIDE 10 %'}"
        for row in document["priors"]
    ]
    lines += ["", f"benign lesions that took a neighbour's voxels: {document['benign_violations']}"]
    lines.append(f"broken rules: {document['broken_rules'] or 'none'}")
    lines.append(
        f"median CPU ms a lesion: {document['median_ms']}; meter {document['median_meter_ms']}"
    )
    lines.append(f"replays that differ: {document['replays_that_differ']}")
    if "mean_variance" in document:
        mv = document["mean_variance"]
        lines.append(
            f"mean variance of 28 features on {mv['masks']} liver masks: {mv['ours']}, "
            f"plain darkening {mv['baseline']}"
        )
    if "loop" in document:
        loop = document["loop"]
        lines.append(
            f"loop: {loop['seconds_per_lesion']} CPU s, {loop['drawings_per_lesion']} drawings a "
            f"lesion, {loop['relabelled']:.1%} relabelled; {PLANNED} lesions on {CORES} cores: "
            f"{loop['minutes_for_30000_on_2_cores']} min (extrapolated, <= {PLANNED_MINUTES:.0f})"
        )
    return lines


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.synthesis check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of templates")
    parser.add_argument("--per-type", type=int, default=40, help="lesions a type (default: 40)")
    parser.add_argument(
        "--types", nargs="+", default=list(PRIORS), choices=list(PRIORS), metavar="TYPE"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--looped", type=int, default=4, help="lesions a type timed in the loop (default: 4)"
    )
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; status 1 if a benign lesion took voxels of a neighbour or a replay differs."""
    args = build_parser().parse_args(argv)
    try:
        store = TemplateStore(args.store)
        if not store.ids():
            msg = f"{args.store}: no templates. Make some with `python -m training.synthesis`."
            raise RecipeError(msg)
        tally = tallied(store, args.types, args.per_type, args.seed)
        loop = looped_seconds(store, args.types, args.looped, args.seed) if args.looped else None
        document = summary(tally, loop)
        print("\n".join(printed(document)))
        if args.out:
            try:
                args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
            except OSError as error:
                msg = f"{args.out}: cannot be written ({error.strerror}). Check folder and space."
                raise OutputError(msg) from error
    except PastaError as error:
        print(f"training.synthesis check: {error}", file=sys.stderr)
        return 2
    return int(bool(sum(document["benign_violations"].values()) or document["replays_that_differ"]))


if __name__ == "__main__":
    raise SystemExit(main())
