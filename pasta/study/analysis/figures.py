"""Figures after the paper's 2c, 3e, 4c and 5b/c, and those for what the paper leaves out."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pasta.study.analysis.printed import half_up, p_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

SOLO, ASSISTED = "#9aa3ad", "#1f6fb2"  # told apart by the colour-blind and in grey
_COLORS = {"solo": SOLO, "assisted": ASSISTED}
_REAL, _SYNTHETIC = "#3b7a57", "#c77c1e"
_READERS = ("#1f6fb2", "#c2571a", "#3b7a57", "#8e4b9e", "#7a6a2b", "#b03060", "#4a5a6a", "#20908d")
_STYLE: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "pasta-aid",  # the same figure twice is the same file
    "pdf.fonttype": 42,
    "pdf.use14corefonts": False,
}
_MORE = (_SYNTHETIC, _REAL, "#8e4b9e", "#7a6a2b")
_MOST_POINTS = 400


def svg_bytes(figure: Figure) -> bytes:
    """Draw as SVG; text as paths, so that it looks the same everywhere."""
    file = io.BytesIO()
    with mpl.rc_context(_STYLE):
        _lay_out(figure)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def pdf_bytes(figure: Figure) -> bytes:
    """Draw as PDF with embedded fonts."""
    file = io.BytesIO()
    with mpl.rc_context(_STYLE):
        _lay_out(figure)
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()


def _lay_out(figure: Figure) -> None:
    """Place axes and legends once: every file is the same, and drawing takes half the time."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def screening_bars(rates: pd.DataFrame) -> Figure:
    """Draw recall, precision, F1 and cases read by reader and arm, as Fig. 2c.

    Args:
        rates: of `screening.reader_rates`.
    """
    organs = sorted(rates["organ"].unique())
    measures = {
        "recall": "Recall (%)",
        "precision": "Precision (%)",
        "f1": "F1 (%)",
        "read": "Cases read",
    }
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(len(measures), len(organs), height=1.55, width=2.45)
        for line, (measure, title) in enumerate(measures.items()):
            top = 100.0 if measure != "read" else float(rates["read"].max())
            for place, organ in enumerate(organs):
                ax = axes[line][place]
                group = rates[rates["organ"] == organ]
                _reader_bars(ax, group, measure)
                ax.set_ylim(0, 1.2 * top)
                if measure != "read":
                    ax.set_yticks([0, 25, 50, 75, 100])
                if line == 0:
                    ax.set_title(organ.capitalize(), pad=8)
                if place == 0:
                    ax.set_ylabel(title)
        _arms_legend(figure)
    return figure


def _reader_bars(ax: Axes, group: pd.DataFrame, measure: str) -> None:
    order = group.sort_values(["level", "reader"])["reader"].drop_duplicates().to_list()
    wide = group.pivot_table(
        index="reader", columns="arm", values=measure, aggfunc="first", dropna=False
    )
    means = wide.dropna().mean()
    mean_at = len(order) + 0.7
    for sign, arm in ((-1, "solo"), (1, "assisted")):
        if arm not in wide.columns:
            continue
        heights = [float(wide[arm].get(reader, math.nan)) for reader in order]
        # the means' bars are wider, so that their numbers fit above them
        places = [*(x + 0.2 * sign for x in range(len(order))), mean_at + 0.33 * sign]
        heights.append(float(means.get(arm, math.nan)))
        ax.bar(places, heights, [*[0.38] * len(order), 0.62], color=_COLORS[arm], zorder=2)
        for x, height in zip(places, heights, strict=True):
            if math.isnan(height):
                ax.text(x, 1, "n.e.", ha="center", va="bottom", fontsize=5.5, rotation=90)
        if math.isfinite(heights[-1]):
            ax.text(
                places[-1],
                heights[-1],
                half_up(heights[-1], 1),
                ha="center",
                va="bottom",
                fontsize=6,
                rotation=90 if len(order) > 5 else 0,
            )
    ax.axvline(len(order) - 0.2, color="#cccccc", lw=0.7)
    ax.set_xticks([*range(len(order)), mean_at], [*order, "Mean"])
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", color="#ececec", lw=0.6, zorder=0)


def forest(
    frame: pd.DataFrame, labels: Sequence[str], title: str, *, ratio: bool, texts: Sequence[str]
) -> Figure:
    """Draw estimates with intervals, one a line.

    Args:
        frame: columns value, low, high.
        labels: of the lines.
        title: of the axis, with its unit.
        ratio: log axis about 1; else linear about 0.
        texts: to the right of the lines.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, 1, height=0.55 + 0.24 * len(frame), width=5.4)
        ax = axes[0][0]
        for line, row in enumerate(frame.to_dict("records")):
            y = len(frame) - 1 - line
            value, low, high = (float(row[k]) for k in ("value", "low", "high"))
            if not math.isfinite(value):
                ax.text(1 if ratio else 0, y, "not estimable", va="center", fontsize=7)
                continue
            if math.isfinite(low) and math.isfinite(high):
                ax.plot([low, high], [y, y], color="#30363d", lw=1.1)
            ax.plot([value], [y], "s", color=ASSISTED, ms=4.5)
        ax.axvline(1 if ratio else 0, color="#999999", lw=0.8, ls="--", zorder=0)
        if ratio:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.set_yticks(range(len(frame)), list(reversed(labels)))
        ax.set_ylim(-0.7, len(frame) - 0.3)
        ax.set_xlabel(title)
        for y, text in enumerate(reversed(texts)):
            ax.annotate(
                text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7
            )
    return figure


def boxes(
    reads: pd.DataFrame, column: str, title: str, p_values: dict[tuple[str, str], str]
) -> Figure:
    """Draw a measure by organ, level and arm, as Fig. 3e and 4c.

    Boxes hold the quartiles, whiskers reach to the last value within 1.5 IQR, every read is a point.

    Args:
        reads: columns organ, level, arm and the measure.
        column: the measure.
        title: of the axis, with its unit.
        p_values: text above a pair of boxes, by organ and level.
    """
    organs = sorted(reads["organ"].unique())
    levels = sorted(reads["level"].unique())
    rng = np.random.default_rng(0)  # of the jitter alone
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, len(organs), height=2.9, width=1.0 + 0.75 * len(levels) + 0.1)
        highest = float(reads[column].max())
        lowest = min(0.0, float(reads[column].min()))
        span = highest - lowest
        for place, organ in enumerate(organs):
            ax = axes[0][place]
            for x, level in enumerate(levels):
                cell = reads[(reads["organ"] == organ) & (reads["level"] == level)]
                for side, arm in ((-0.2, "solo"), (0.2, "assisted")):
                    values = cell.loc[cell["arm"] == arm, column].dropna().to_numpy()
                    if len(values):
                        _box(ax, values, x + side, _COLORS[arm], rng)
                top = highest + 0.06 * span
                text = p_values.get((organ, level), "")
                if text:
                    tick = 0.015 * span
                    ax.plot(
                        [x - 0.2, x - 0.2, x + 0.2, x + 0.2],
                        [top - tick, top, top, top - tick],
                        color="#30363d",
                        lw=0.7,
                    )
                    ax.text(x, top + 0.01 * span, text, ha="center", va="bottom", fontsize=6.5)
            ax.set_xticks(range(len(levels)), [level.capitalize() for level in levels])
            ax.set_xlim(-0.6, len(levels) - 0.4)
            ax.set_ylim(lowest, highest + 0.17 * span)
            ax.set_title(organ.capitalize())
            ax.tick_params(axis="x", length=0)
            if place:
                ax.set_yticklabels([])
        axes[0][0].set_ylabel(title)
        _arms_legend(figure)
    return figure


def _box(ax: Axes, values: Any, x: float, color: str, rng: np.random.Generator) -> None:
    shown = values if len(values) <= _MOST_POINTS else rng.choice(values, _MOST_POINTS, False)
    ax.scatter(
        x + rng.uniform(-0.1, 0.1, len(shown)),
        shown,
        s=4,
        color=color,
        alpha=0.45,
        lw=0,
        zorder=1,
        rasterized=len(shown) > 150,
    )
    ax.boxplot(
        [values],
        positions=[x],
        widths=0.3,
        showfliers=False,  # every read is a point already
        patch_artist=True,
        boxprops={"facecolor": "none", "edgecolor": "#22262b", "lw": 0.9},
        medianprops={"color": "#22262b", "lw": 1.4},
        whiskerprops={"color": "#22262b", "lw": 0.9},
        capprops={"color": "#22262b", "lw": 0.9},
        manage_ticks=False,
        zorder=3,
    )


def roc_curves(reads: pd.DataFrame) -> Figure:
    """Draw the empirical ROC curve of each reader by organ: solo dashed, assisted solid."""
    organs = sorted(reads["organ"].unique())
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, len(organs), height=2.5, width=2.5)
        readers = sorted(reads["reader"].unique())
        for place, organ in enumerate(organs):
            ax = axes[0][place]
            for number, reader in enumerate(readers):
                for arm, style in (("solo", (0, (3, 2))), ("assisted", "-")):
                    chosen = reads[
                        (reads["organ"] == organ)
                        & (reads["reader"] == reader)
                        & (reads["arm"] == arm)
                    ]
                    truth = chosen["positive"].to_numpy() == 1
                    if not truth.any() or truth.all():
                        continue
                    scores = chosen["score"].to_numpy()
                    limits = np.concatenate([[np.inf], np.unique(scores)[::-1]])
                    over = scores[None, :] >= limits[:, None]
                    ax.plot(
                        100 * over[:, ~truth].mean(1),
                        100 * over[:, truth].mean(1),
                        ls=style,
                        lw=1.1,
                        color=_READERS[number % len(_READERS)],
                    )
            ax.plot([0, 100], [0, 100], color="#cccccc", lw=0.7, zorder=0)
            ax.set(xlim=(-1, 101), ylim=(-1, 101), xlabel="1 - specificity (%)")
            ax.set_aspect("equal")
            ax.set_title(organ.capitalize())
        axes[0][0].set_ylabel("Sensitivity (%)")
        handles = [
            Line2D([], [], color=_READERS[i % len(_READERS)], lw=1.4, label=reader)
            for i, reader in enumerate(readers)
        ]
        handles += [
            Line2D([], [], color="#555555", ls=(0, (3, 2)), label="solo"),
            Line2D([], [], color="#555555", label="assisted"),
        ]
        _legend(figure, handles)
    return figure


def learning_curves(reads: pd.DataFrame) -> Figure:
    """Draw each reader's time by position in the list, smoothed (lowess), by organ and arm."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    organs = sorted(reads["organ"].unique())
    readers = sorted(reads["reader"].unique())
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(2, len(organs), height=1.75, width=2.45)
        for place, organ in enumerate(organs):
            for line, arm in enumerate(("solo", "assisted")):
                ax = axes[line][place]
                for number, reader in enumerate(readers):
                    chosen = reads[
                        (reads["organ"] == organ)
                        & (reads["reader"] == reader)
                        & (reads["arm"] == arm)
                        & (reads["seconds"] > 0)
                    ]
                    color = _READERS[number % len(_READERS)]
                    ax.scatter(
                        chosen["position"], chosen["seconds"], s=3, color=color, alpha=0.3, lw=0
                    )
                    if len(chosen) > 7:
                        smooth = lowess(np.log(chosen["seconds"]), chosen["position"], frac=0.6)
                        ax.plot(smooth[:, 0], np.exp(smooth[:, 1]), color=color, lw=1.3)
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
                ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
                if line == 0:
                    ax.set_title(organ.capitalize())
                else:
                    ax.set_xlabel("Position in the list")
                if place == 0:
                    ax.set_ylabel(f"{arm.capitalize()}: time (s)")
        known = reads[reads["seconds"] > 0]["seconds"]
        if len(known):
            low, high = float(known.min()) * 0.85, float(known.max()) * 1.15
            ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low < t < high]
            for ax in axes.ravel():
                ax.set_ylim(low, high)
                ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        handles = [
            Line2D([], [], color=_READERS[i % len(_READERS)], lw=1.4, label=reader)
            for i, reader in enumerate(readers)
        ]
        _legend(figure, handles)
    return figure


def share_bars(frame: pd.DataFrame, by: str, title: str) -> Figure:
    """Draw shares in % with their intervals: groups on x, one colour for each value of `by`.

    Args:
        frame: columns organ (the groups), `by`, value, low, high.
        by: column of the colours.
        title: of the axis.
    """
    groups = sorted(frame["organ"].unique())
    kinds = sorted(set(frame[by]), key=lambda kind: (kind != "solo", kind != "assisted", kind))
    palette = dict(zip([k for k in kinds if k not in _COLORS], _MORE, strict=False)) | _COLORS
    with mpl.rc_context(_STYLE):
        width = max(3.2, 0.7 + 0.32 * len(groups) * len(kinds))
        figure, axes = _grid(1, 1, height=2.3, width=width)
        ax = axes[0][0]
        step = 0.8 / len(kinds)
        for number, kind in enumerate(kinds):
            color = palette[kind]
            for place, group in enumerate(groups):
                row = frame[(frame["organ"] == group) & (frame[by] == kind)]
                if row.empty or not math.isfinite(float(row["value"].iloc[0])):
                    continue
                x = place + (number - (len(kinds) - 1) / 2) * step
                _bar_with_interval(ax, x, row, 0.9 * step, color)
        ax.set_xticks(range(len(groups)), [group.capitalize() for group in groups])
        ax.set_ylim(0, 105)
        ax.set_ylabel(title)
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y", color="#ececec", lw=0.6, zorder=0)
        _legend(figure, [Patch(color=palette[kind], label=kind) for kind in kinds])
    return figure


def rating_bars(frame: pd.DataFrame, title: str) -> Figure:
    """Draw mean ratings by lesion, real beside synthetic where there are both, as Fig. 5b and 5c.

    Args:
        frame: columns lesion, value, low, high, and source if there are two.
        title: of the axis.
    """
    lesions = sorted(frame["lesion"].unique())
    sources = (
        [s for s in ("real", "synthetic") if s in set(frame["source"])]
        if "source" in frame.columns
        else [""]
    )
    colors = {"real": _REAL, "synthetic": _SYNTHETIC, "": ASSISTED}
    with mpl.rc_context(_STYLE):
        width = max(3.2, 0.8 + 0.42 * len(lesions) * len(sources))
        figure, axes = _grid(1, 1, height=2.5, width=min(width, 10))
        ax = axes[0][0]
        step = 0.8 / len(sources)
        for number, source in enumerate(sources):
            for place, lesion in enumerate(lesions):
                chosen = frame[frame["lesion"] == lesion]
                row = chosen[chosen["source"] == source] if source else chosen
                if row.empty:
                    continue
                x = place + (number - (len(sources) - 1) / 2) * step
                _bar_with_interval(ax, x, row, 0.9 * step, colors[source], bottom=1.0)
                top = float(np.nanmax([row["high"].iloc[0], row["value"].iloc[0]]))
                ax.text(
                    x,
                    top + 0.05,
                    half_up(float(row["value"].iloc[0]), 2),
                    ha="center",
                    va="bottom",
                    fontsize=6,
                )
        names = [lesion.replace("_", " ").capitalize() for lesion in lesions]
        ax.set_xticks(
            range(len(lesions)),
            names,
            rotation=0 if len(lesions) < 5 else 35,
            ha="center" if len(lesions) < 5 else "right",
        )
        ax.set_ylim(1, 5.3)
        ax.set_yticks([1, 2, 3, 4, 5])
        ax.set_ylabel(title)
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y", color="#ececec", lw=0.6, zorder=0)
        if len(sources) > 1:
            _legend(figure, [Patch(color=colors[s], label=s) for s in sources])
    return figure


def _bar_with_interval(
    ax: Axes, x: float, row: pd.DataFrame, width: float, color: str, bottom: float = 0.0
) -> None:
    value, low, high = (float(row[k].iloc[0]) for k in ("value", "low", "high"))
    ax.bar([x], [value - bottom], width, bottom=bottom, color=color, zorder=2)
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([x, x], [low, high], color="#22262b", lw=0.9, zorder=3)


def power_curves(frame: pd.DataFrame) -> Figure:
    """Draw simulated power by number of readers, one line a test.

    Args:
        frame: columns n_readers, n_cases, test, value, low, high; % of simulations.
    """
    sizes = sorted(frame["n_cases"].unique())
    with mpl.rc_context(_STYLE):
        figure, axes = _grid(1, len(sizes), height=2.5, width=2.6)
        for place, size in enumerate(sizes):
            ax = axes[0][place]
            for number, (_, group) in enumerate(
                frame[frame["n_cases"] == size].groupby("test", sort=True)
            ):
                color = _READERS[number % len(_READERS)]
                group = group.sort_values("n_readers")
                ax.plot(group["n_readers"], group["value"], "o-", color=color, ms=3, lw=1.2)
                ax.fill_between(
                    group["n_readers"], group["low"], group["high"], color=color, alpha=0.15, lw=0
                )
            ax.axhline(80, color="#999999", lw=0.8, ls="--", zorder=0)
            ax.set(ylim=(0, 102), xlabel="Readers")
            ax.set_title(f"{size} cases a reader and arm")
        axes[0][0].set_ylabel("Power (% of simulations)")
        tests = sorted(frame["test"].unique())
        _legend(
            figure,
            [
                Line2D([], [], color=_READERS[i % len(_READERS)], marker="o", ms=3, label=test)
                for i, test in enumerate(tests)
            ],
        )
    return figure


def _grid(lines: int, columns: int, *, height: float, width: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * columns + 0.5, height * lines + 0.55), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False)


def _arms_legend(figure: Figure) -> None:
    _legend(
        figure,
        [Patch(color=SOLO, label="Solo"), Patch(color=ASSISTED, label="AI-assisted")],
    )


def _legend(figure: Figure, handles: list[Any]) -> None:
    columns = min(len(handles), 6 if figure.get_figwidth() > 6 else 3)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def p_line(replica: float, default: float) -> str:
    """Two p values as one short text for a figure."""

    def of(p: float) -> str:
        text = p_text(p)
        return (
            f"p < {text[1:]}" if text.startswith("<") else text if math.isnan(p) else f"p = {text}"
        )

    return f"{of(replica)} (mixed)\n{of(default)} (default)"
