"""Turns what coordinators may see into HTML; templates, style and script lie in `lib/pages`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pasta import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGES = Path(__file__).resolve().parents[1] / "pages"
ASSETS = {"style.css": "text/css", "page.js": "text/javascript"}
_NONE = "\N{EN DASH}"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 150, 44, 22, 10


def page(template: str, **values: Any) -> str:
    """Fill a template; everything that is filled in is escaped."""
    return _ENVIRONMENT.get_template(template).render(version=__version__, **values)


def chart_of(block: dict[str, Any]) -> dict[str, Any]:
    """Lay out the times of one block over the position of the case, for SVG.

    Args:
        block: entry of `Overview.quality`.
    """
    points: Sequence[dict[str, Any]] = block["points"]
    highest = max((point["seconds"] for point in points), default=0.0)
    step = _step(highest)
    top = step * max(1, math.ceil(highest / step))
    last = max((point["position"] for point in points), default=1)
    inner_width, inner_height = _WIDTH - _LEFT - 8, _HEIGHT - _TOP - _BOTTOM

    def x(position: float) -> float:
        return round(_LEFT + inner_width * (position - 0.5) / last, 1)

    def y(seconds: float) -> float:
        return round(_TOP + inner_height * (1 - seconds / top), 1)

    ticks = [step * number for number in range(round(top / step) + 1)]
    median = block["median_seconds"]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - 8,
        "base": _HEIGHT - _BOTTOM,
        "ticks": [{"y": y(tick), "text": f"{tick:g}"} for tick in ticks],
        "first": {"x": x(1), "text": "1"},
        "last": {"x": x(last), "text": str(last)},
        "median": None if median is None else y(median),
        "points": [{**p, "x": x(p["position"]), "y": y(p["seconds"])} for p in points],
    }


def duration(seconds: float | None) -> str:
    """Write seconds as people read them: "12.3 s", "4 min 05 s", "1 h 02 min"."""
    if seconds is None:
        return _NONE
    if not seconds:
        return "0 s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(utc: str) -> str:
    """Write an ISO time to the second, without its zone, which the head of the page tells."""
    return utc[:19].replace("T", " ") if utc else _NONE


def _step(highest: float) -> float:
    """A round distance of ticks that gives at most five of them."""
    wanted = max(highest, 1e-3) / 4
    power = 10 ** math.floor(math.log10(wanted))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(PAGES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"duration": duration, "moment": moment}
_ENVIRONMENT.globals["chart_of"] = chart_of
