"""One self-contained HTML page per run: what the lesions look like, and whether they are as asked.

For each type examples in three views with their report, the sizes and attributes against the
priors, what was wished for against what was measured, and how fast it went.
"""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage

from pasta.errors import PastaError
from pasta.io.files import atomic_file
from pasta.labels import LESIONS, Label, label_named
from pasta.report.attributes import ATTRIBUTE_NAMES, PREDICTED, attribute_named
from training.synthesis.cases import box_around, drawn, recipes_of
from training.synthesis.planning import PlanError, PlannedCase, opened, read_plan, require_same_code
from training.synthesis.priors import PRIORS
from training.synthesis.realism import RealCase, real_crop
from training.synthesis.templates import TemplateStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEW_MM = 128
PIXELS = 216
WINDOWS: Mapping[str, tuple[float, float]] = {  # centre and width, HU
    "soft tissue": (50, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
}
OUTSIDE_HU = -3000.0  # black in every window: there is no scan
_BINS = np.geomspace(2, 130, 22)


@dataclass(frozen=True, slots=True)
class Example:
    """Pictures of one lesion, plain and outlined, with what is said of it."""

    plain: str
    outlined: str
    caption: str
    report: Mapping[str, Any]
    milliseconds: float = 0.0


def write_gallery(
    plan: Path,
    store: TemplateStore,
    out: Path,
    *,
    examples: int = 4,
    real: Sequence[RealCase] = (),
    check: Path | None = None,
) -> None:
    """Write the page.

    Args:
        plan: folder of a plan; it may be unfinished.
        store: of its templates.
        out: the HTML file.
        examples: of each type.
        real: real lesions to show beside them; mind their licences before the page is given away.
        check: JSON of `check`, whose figures are then shown: meter, diversity, throughput.

    Raises:
        PlanError: if the plan is damaged or empty.
        OutputError: if the page cannot be written.
    """
    require_same_code(plan, store)
    by_type: dict[str, list[PlannedCase]] = defaultdict(list)
    for case in read_plan(plan, partly=True):
        by_type[case.type].append(case)
    if not any(case.recipes for cases in by_type.values() for case in cases):
        msg = f"{plan}: no case of this plan has a lesion yet. Run `make` first."
        raise PlanError(msg)
    sections, speeds = [], []
    for lesion in LESIONS:
        cases = by_type.get(lesion.name)
        if not cases:
            continue
        shown = [
            example_of(case, store) for case in spread([c for c in cases if c.recipes], examples)
        ]
        speeds += [(lesion.name, example.milliseconds) for example in shown]
        compared = [
            example for one in real if one.type == lesion.name for example in _real_example(one)
        ][:examples]
        sections.append(_section(lesion, cases, shown, compared))
    figures = _figures(check) if check else ""
    page = _page(by_type, sections, speeds, figures)
    with atomic_file(out) as file:
        file.write(page.encode())


def spread(cases: Sequence[PlannedCase], count: int) -> list[PlannedCase]:
    """Choose cases from small to large, so that a row shows the whole range."""
    ranked = sorted(
        cases, key=lambda case: (float(case.reports[0].get("diameter_mm") or 0), case.number)
    )
    if len(ranked) <= count:
        return ranked
    places = np.linspace(0.12, 0.92, count) * (len(ranked) - 1)
    return [ranked[round(float(place))] for place in places]


def window_of(lesion: Label, report: Mapping[str, Any] | None = None) -> str:
    """Window that a lesion type is read in."""
    if lesion.organ == "lung":
        return "lung"
    if lesion.organ == "bone" or (report or {}).get("density_hu", 0) > 300:
        return "bone"
    return "soft tissue"


def example_of(case: PlannedCase, store: TemplateStore) -> Example:
    """Draw the first lesion of a case and take its pictures."""
    template = opened(store.folder.resolve(), case.template)
    recipes = recipes_of(case.recipes, f"case {case.number}")
    centre = recipes[0].centre
    box = box_around(template.shape, centre, (VIEW_MM + 40,) * 3)
    piece = drawn(template, recipes, box)
    started = time.process_time()  # the second time: noise and distances of the template are there
    drawn(template, recipes, box)
    elapsed = 1000 * (time.process_time() - started) / len(recipes)
    lesion = label_named(case.type)
    at = tuple(c - part.start for c, part in zip(centre, piece.box, strict=True))
    mask = piece.labels == lesion.value
    window = window_of(lesion)
    plain, outlined = pictures(piece.hu, mask, _middle(mask, at), window)
    phase = "contrast" if template.contrast else "no contrast"
    kind = "rendered" if template.rendered else "CT"
    caption = f"case {case.number}, {template.id} ({kind}, {phase}), {window} window"
    return Example(plain, outlined, caption, case.reports[0], elapsed)


def pictures(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], at: tuple[int, ...], window: str
) -> tuple[str, str]:
    """Axial, coronal and sagittal view through a voxel, plain and with the lesion outlined.

    Args:
        hu: (I, J, K) at 1 mm along L, P, S.
        mask: of the lesion.
        at: voxel that all three planes go through.
        window: key of `WINDOWS`.

    Returns:
        Two data URIs of one row of three pictures; right of the patient is left, head is up.
    """
    rows = []
    for outlined in (False, True):
        views = []
        for plane in range(3):
            picture = _view(hu, mask, at, plane, window, outlined=outlined)
            views.append(np.pad(picture, ((0, 0), (0, 4 if plane < 2 else 0), (0, 0))))
        rows.append(_data_uri(np.concatenate(views, axis=1)))
    return rows[0], rows[1]


def _view(
    hu: NDArray[np.int16],
    mask: NDArray[np.bool_],
    at: tuple[int, ...],
    plane: int,
    window: str,
    *,
    outlined: bool,
) -> NDArray[np.uint8]:
    axis = (2, 1, 0)[plane]
    cut, shape = np.take(hu, at[axis], axis=axis), np.take(mask, at[axis], axis=axis)
    middle = [c for n, c in enumerate(at) if n != axis]
    square = np.full((VIEW_MM, VIEW_MM), OUTSIDE_HU, np.float32)
    inside = np.zeros((VIEW_MM, VIEW_MM), np.float32)
    start = [c - VIEW_MM // 2 for c in middle]
    source = tuple(
        slice(max(0, s), min(n, s + VIEW_MM)) for s, n in zip(start, cut.shape, strict=True)
    )
    target = tuple(
        slice(part.start - s, part.stop - s) for part, s in zip(source, start, strict=True)
    )
    square[target], inside[target] = cut[source], shape[source]
    centre, width = WINDOWS[window]
    grey = np.clip((square - centre + width / 2) / width, 0, 1)
    scale = PIXELS / VIEW_MM
    grey = np.clip(ndimage.zoom(grey, scale, order=1), 0, 1)
    picture = np.repeat((255 * grey.T).astype(np.uint8)[:, :, None], 3, axis=2)
    if outlined:
        fine = ndimage.zoom(inside, scale, order=1).T >= 0.5
        edge = ndimage.binary_dilation(fine) & ~fine
        picture[edge] = (255, 196, 0)
    return picture if plane == 0 else picture[::-1]


def _data_uri(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _middle(mask: NDArray[np.bool_], near: tuple[int, ...]) -> tuple[int, ...]:
    """Deepest voxel of the lesion's part that is nearest to its recipe's centre."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return near
    found = np.argwhere(parts > 0)
    nearest = found[np.argmin(((found - np.array(near)) ** 2).sum(axis=1))]
    part = parts == parts[tuple(nearest)]
    box = ndimage.find_objects(part.astype(np.uint8))[0]
    wide = np.pad(part[box], 1)
    depth = ndimage.distance_transform_edt(wide)
    place = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return tuple(int(p) - 1 + b.start for p, b in zip(place, box, strict=True))


def _real_example(case: RealCase) -> list[Example]:
    try:
        hu, mask, about = real_crop(case, (0, 0, 0), VIEW_MM + 40)
    except PastaError as error:
        return [Example("", "", f"cannot be shown: {error}", {})]
    lesion = mask > 0
    centre = tuple(n // 2 for n in hu.shape)
    window = window_of(label_named(case.type))
    plain, outlined = pictures(hu, lesion, _middle(lesion, centre), window)
    return [Example(plain, outlined, f"real: {about}, {window} window", {})]


def _section(
    lesion: Label, cases: Sequence[PlannedCase], shown: Sequence[Example], real: Sequence[Example]
) -> str:
    reports = [report for case in cases for report in case.reports]
    failed = [case for case in cases if not case.recipes]
    parts = [
        f'<section id="{lesion.name}"><h2>{html.escape(lesion.title)} '
        f"<small>{len(cases)} cases, {len(reports)} lesions</small></h2>",
    ]
    if failed:
        parts.append(
            f'<p class="problem">No lesion in {len(failed)} of them: '
            f"{html.escape(failed[0].problem or 'no template')}</p>"
        )
    parts.append('<div class="examples">')
    parts += [_figure(example) for example in (*shown, *real)]
    parts.append('</div><div class="plots">')
    parts.append(_sizes(lesion.name, reports))
    parts += [_shares(lesion.name, name, reports) for name in PREDICTED]
    parts.append("</div></section>")
    return "\n".join(parts)


def _figure(example: Example) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(attribute_named(name).title)}</th>"
        f"<td>{html.escape(str(example.report.get(name) or 'not assessable'))}</td></tr>"
        for name in ATTRIBUTE_NAMES
        if example.report
    )
    alt = html.escape(example.caption, quote=True)
    pictures_ = (
        f'<img class="plain" src="{example.plain}" alt="{alt}">'
        f'<img class="outlined" src="{example.outlined}" alt="{alt}, outlined">'
        if example.plain
        else ""
    )
    table = f"<table>{rows}</table>" if rows else ""
    return f"<figure>{pictures_}<figcaption>{html.escape(example.caption)}</figcaption>{table}</figure>"


def _sizes(name: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """Histogram of D beside the prior's density, both as shares of a bin."""
    found = np.array([float(r["diameter_mm"]) for r in reports if r.get("diameter_mm")])
    prior = PRIORS[name]
    share = np.histogram(found, _BINS)[0] / max(1, found.size)
    rng = np.random.default_rng(0)
    wanted = np.clip(np.exp(rng.normal(*prior.diameter, 20000)), *prior.limits_mm)
    expected = np.histogram(wanted, _BINS)[0] / wanted.size
    top = max(float(share.max(initial=0)), float(expected.max()), 0.01)
    step = 220 / len(share)
    bars = "".join(
        f'<rect class="found" x="{n * step + 0.5:.1f}" y="{100 - 92 * s / top:.1f}" '
        f'width="{step - 1:.1f}" height="{92 * s / top:.1f}"/>'
        for n, s in enumerate(share)
    )
    line = " ".join(
        f"{(n + 0.5) * step:.1f},{100 - 92 * e / top:.1f}" for n, e in enumerate(expected)
    )
    ticks = "".join(
        f'<text x="{220 * np.log(mm / 2) / np.log(65):.0f}" y="113">{mm}</text>'
        for mm in (2, 5, 10, 20, 50, 100)
    )
    median = f"median {np.median(found):.1f} mm" if found.size else "none"
    note = "" if prior.shape[2] == 0 else "; walls are sized by thickness and extent, not by D"
    return (
        f'<div class="plot"><h3>D of the equal ball, mm</h3><svg viewBox="-6 0 240 116">{bars}'
        f'<polyline class="prior" points="{line}"/>{ticks}</svg>'
        f"<p>{median}; prior {np.exp(prior.diameter[0]):.1f} mm{note}</p></div>"
    )


def _shares(name: str, attribute: str, reports: Sequence[Mapping[str, Any]]) -> str:
    prior = PRIORS[name].shares(attribute)
    known = [str(report[attribute]) for report in reports if report.get(attribute)]
    counts = Counter(known)
    rows = []
    for option in attribute_named(attribute).options if known else ():
        found, wanted = counts[option] / max(1, len(known)), prior.get(option, 0.0)
        if found == 0 and wanted == 0:
            continue
        rows.append(
            f'<div class="row"><span>{html.escape(_short(option))}</span>'
            f'<i style="width:{23 * found:.1f}%"></i><b style="left:calc(42% + {23 * wanted:.1f}%)"></b>'
            f"<em>{found:.0%} / {wanted:.0%}</em></div>"
        )
    left_out = len(reports) - len(known)
    note = f"<p>{left_out} not assessable</p>" if left_out else ""
    title = attribute_named(attribute).title
    return f'<div class="plot"><h3>{title}</h3>{"".join(rows)}{note}</div>'


def _short(option: str) -> str:
    return {
        "No close relationship with surrounding structures": "not close",
        "Close relationship with adjacent structures": "close",
        "Well-defined margin": "well-defined",
        "Ill-defined margin": "ill-defined",
    }.get(option, option.lower())


def confusion(cases: Iterable[PlannedCase], attribute: str) -> dict[tuple[str, str], int]:
    """Count what was wished for against what the meter found, lesions that it could assess."""
    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        for recipe, report in zip(case.recipes, case.reports, strict=True):
            wished = recipe.get("wish", {}).get(attribute)
            if wished and report.get(attribute):
                counts[wished, str(report[attribute])] += 1
    return dict(counts)


def _confusions(cases: Sequence[PlannedCase]) -> str:
    tables = []
    for attribute in PREDICTED:
        counts = confusion(cases, attribute)
        options = [
            o for o in attribute_named(attribute).options if any(o in pair for pair in counts)
        ]
        if not options:
            continue
        head = "".join(f"<th>{html.escape(_short(o))}</th>" for o in options)
        rows = ""
        for wished in options:
            total = sum(counts.get((wished, o), 0) for o in options)
            cells = "".join(
                f'<td style="--share:{counts.get((wished, o), 0) / max(1, total):.2f}"'
                f"{' class=same' if wished == o else ''}>{counts.get((wished, o), 0)}</td>"
                for o in options
            )
            rows += f"<tr><th>{html.escape(_short(wished))}</th>{cells}</tr>"
        agree = sum(n for (w, m), n in counts.items() if w == m) / max(1, sum(counts.values()))
        tables.append(
            f"<div><h3>{attribute_named(attribute).title} <small>{agree:.1%} as aimed at</small></h3>"
            f'<table class="confusion"><tr><th></th>{head}</tr>{rows}</table></div>'
        )
    return "".join(tables) or "<p>No aims are recorded in this plan.</p>"


def _figures(path: Path) -> str:
    from training.synthesis.check import printed

    try:
        lines = printed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{path}: not the JSON that `check` writes ({type(error).__name__}). Run `check` again."
        )
        raise PlanError(msg) from error
    text = html.escape("\n".join(lines))
    return f'<section id="check"><h2>Measured by <code>check</code></h2><pre>{text}</pre></section>'


def _page(
    by_type: Mapping[str, Sequence[PlannedCase]],
    sections: Sequence[str],
    speeds: Sequence[tuple[str, float]],
    figures: str,
) -> str:
    cases = [case for found in by_type.values() for case in found]
    lesions = sum(len(case.recipes) for case in cases)
    attempts = [n for case in cases for n in case.attempts]
    relabelled = sum(1 for case in cases for changed in case.relabelled if changed)
    templates = sorted({case.template for case in cases if case.template})
    links = "".join(
        f'<a href="#{name}">{html.escape(label_named(name).title)}</a>'
        for name in (lesion.name for lesion in LESIONS)
        if name in by_type
    )
    drawn_ms = np.array([ms for _, ms in speeds])
    facts = {
        "cases": f"{len(cases)}",
        "lesions": f"{lesions}",
        "without lesion": f"{sum(not case.recipes for case in cases)}",
        "templates": f"{len(templates)}",
        "drawings per lesion": f"{np.mean(attempts):.2f}" if attempts else "-",
        "relabelled by the meter": f"{relabelled / max(1, lesions):.1%}",
        "drawing one, one core": f"{np.median(drawn_ms):.0f} ms median, "
        f"{np.percentile(drawn_ms, 95):.0f} ms at 95 %",
    }
    tiles = "".join(f"<div><b>{value}</b><span>{key}</span></div>" for key, value in facts.items())
    body = "\n".join(sections)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Synthetic lesions</title><style>{_STYLE}</style></head><body>
<input type="checkbox" id="outline"><header><h1>Synthetic lesions</h1>
<label for="outline">Outline</label><nav>{links}</nav></header><main>
<div class="tiles">{tiles}</div>
<p class="legend">Rows run from small to large. Right of the patient is left, head is up, 128 mm a side.
Reports are measured from the image. Bars: <i class="key found"></i> this plan,
<i class="key prior"></i> prior.</p>
{body}
<section id="meter"><h2>Aimed at and measured</h2><div class="plots">{_confusions(cases)}</div></section>
{figures}</main></body></html>
"""


_STYLE = """
:root{color-scheme:dark;--ink:#e8e8ea;--dim:#9a9ca3;--line:#34363d;--found:#5b8def;--prior:#ffc400}
*{box-sizing:border-box}body{margin:0;background:#15161a;color:var(--ink);
font:14px/1.45 system-ui,sans-serif}main{padding:0 20px 60px;max-width:1480px;margin:auto}
header{position:sticky;top:0;z-index:1;background:#15161af2;border-bottom:1px solid var(--line);
padding:8px 20px;display:flex;gap:16px;align-items:center;flex-wrap:wrap}
h1{font-size:17px;margin:0}h2{font-size:17px;margin:34px 0 10px}h2 small,h3 small{color:var(--dim);
font-weight:400;font-size:13px}h3{font-size:13px;margin:0 0 6px}
nav{display:flex;gap:4px 12px;flex-wrap:wrap;font-size:13px}a{color:var(--dim)}a:hover{color:var(--ink)}
#outline{position:absolute;opacity:0}header label{border:1px solid var(--line);border-radius:14px;
padding:3px 12px;cursor:pointer;user-select:none}#outline:checked~header label{background:var(--prior);
color:#000}#outline:focus-visible~header label{outline:2px solid var(--found)}
.outlined{display:none}#outline:checked~main .outlined{display:block}#outline:checked~main .plain{display:none}
section{scroll-margin-top:90px}.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0}
.tiles div{border:1px solid var(--line);border-radius:8px;padding:8px 14px}.tiles b{display:block;
font-size:17px}.tiles span,.legend,figcaption,.plot p{color:var(--dim);font-size:12px}
.examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(560px,1fr));gap:16px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;overflow:hidden;background:#1b1c21}
figure img{width:100%;display:block;background:#000}figcaption{padding:6px 10px}
figure .outlined{display:none}table{border-collapse:collapse;font-size:12.5px;margin:0 10px 10px}
figure table{display:grid;grid-template-columns:1fr 1fr;column-gap:18px}figure tbody{display:contents}
figure tr{display:flex;gap:8px}th{text-align:left;color:var(--dim);font-weight:400;padding:1px 6px 1px 0;
white-space:nowrap}td{padding:1px 6px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(212px,1fr));gap:16px;margin-top:14px}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:9px;text-anchor:middle}
.found{fill:var(--found)}.prior{fill:none;stroke:var(--prior);stroke-width:1.6}.plot p{margin:4px 0}
.row{position:relative;height:20px;font-size:12px}.row span{position:absolute;left:0;color:var(--dim);
width:41%;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}.row i{position:absolute;left:42%;
top:4px;height:11px;background:var(--found);border-radius:2px}.row b{position:absolute;top:1px;height:17px;
width:2px;background:var(--prior)}.row em{position:absolute;right:0;font-style:normal;}
.key{display:inline-block;width:12px;height:10px;background:var(--found)}
.key.prior{background:var(--prior);width:3px}.confusion{margin:0}.confusion td{text-align:right;min-width:52px;
background:rgba(224,90,90,calc(var(--share)*.75))}.confusion .same{background:rgba(91,141,239,calc(var(--share)*.75))}
.problem{color:#ff9d76}@media(max-width:640px){.examples{grid-template-columns:1fr}}
"""
