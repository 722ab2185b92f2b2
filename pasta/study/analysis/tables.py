"""What an analysis gives: sections of tables and figures, each number with its unit and n."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from pasta.study.analysis.printed import NOT_ESTIMABLE, half_up, interval_text, p_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# digits after the point by unit; any other unit gets three
_DIGITS = {
    "%": 1,
    "points": 1,
    "relative %": 1,
    "relative % per doubling": 1,
    "s": 1,
    "cases": 1,
    "mm": 1,
    "ml": 1,
    "edits": 1,
    "reads": 0,
}
_DEFAULT_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results.

    Attributes:
        name: of its CSV file.
        title: shown above it.
        frame: one row a result. Columns `value`, `low`, `high` have the unit in column `unit`;
            columns that start with "p" hold p values; `n...` are counts.
        notes: what a reader of the table must know.
    """

    name: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    def shown(self) -> pd.DataFrame:
        """The table as text, for people: estimate and interval in one cell."""
        frame = self.frame
        if "unit" in frame.columns and "value" in frame.columns:
            return _with_units(frame)
        return frame.apply(lambda column: column.map(lambda x: _cell(str(column.name), x)))

    def records(self) -> list[dict[str, Any]]:
        """The rows for JSON; None where a number is not estimable."""
        return [
            {str(key): _plain(str(key), value) for key, value in row.items()}
            for row in self.frame.to_dict("records")
        ]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with the words below it."""

    name: str
    title: str
    figure: Figure
    caption: str


@dataclass(slots=True)
class Section:
    """One part of the report.

    Attributes:
        name: key in the JSON.
        title: heading.
        tables: in order.
        pictures: in order.
        notes: how the numbers came about and how far they may be trusted.
        not_done: what was left out, and why.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)


def rows(records: list[dict[str, Any]], columns: str) -> pd.DataFrame:
    """Make a frame with these columns, also where there is no record."""
    return pd.DataFrame.from_records(records, columns=columns.split())


def _with_units(frame: pd.DataFrame) -> pd.DataFrame:
    interval = {"low", "high"} <= set(frame.columns)
    records = []
    for row in frame.to_dict("records"):
        digits = _DIGITS.get(str(row["unit"]), _DEFAULT_DIGITS)
        shown: dict[str, str] = {}
        for key, value in row.items():
            if key in ("low", "high"):
                continue
            if key == "value":
                low, high = (row["low"], row["high"]) if interval else (math.nan, math.nan)
                name = "value (95% CI)" if interval else "value"
                shown[name] = interval_text(_number(value), _number(low), _number(high), digits)
            elif key in ("solo", "assisted") and isinstance(value, float):
                shown[str(key)] = half_up(value, _DIGITS.get(row["means_unit"], _DEFAULT_DIGITS))
            else:
                shown[str(key)] = _cell(str(key), value)
        records.append(shown)
    return pd.DataFrame.from_records(records)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _cell(column: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if column == "p" or column.startswith("p_"):
            return p_text(value)
        if math.isnan(value):
            return NOT_ESTIMABLE
        if value.is_integer() and (column.startswith("n") or column in _COUNTS):
            return str(int(value))
        return half_up(value, _DEFAULT_DIGITS)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


_COUNTS = frozenset({"tp", "tn", "fp", "fn", "read", "position", "order"})


def _plain(column: str, value: Any) -> Any:
    if value == "" and (column == "p" or column.startswith("p_")):
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
