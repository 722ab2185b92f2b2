"""How readers work with the AI and with practice: reliance on it, edits, learning curves."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.study.analysis.estimates import mean_of, proportion_of, robust_regression
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    import pandas as pd

_UNCHANGED = 0.9999  # Dice of a mask with the AI's, from which it was taken as it came


def decisions_with_ai(reads: pd.DataFrame) -> pd.DataFrame:
    """Tell how assisted screening decisions follow the AI's, by organ and level.

    Args:
        reads: complete screening reads.

    Returns:
        Follow rate where the AI was right and where it was wrong (the latter is automation bias),
        and the error rate solo and assisted on the cases where the AI was wrong.
    """
    records: list[dict[str, Any]] = []
    said = reads[reads["ai_decision"].notna()].groupby(["organ", "case"])["ai_decision"].first()
    known = reads.join(said.rename("ai"), on=["organ", "case"]).dropna(subset=["ai"])
    known = known.assign(
        ai_right=known["ai"] == known["positive"],
        follows=known["decision"] == known["ai"],
        error=known["decision"] != known["positive"],
    )
    for (organ, level), group in known.groupby(["organ", "level"], sort=True):
        keys = {"organ": organ, "level": level}
        for right, words in ((True, "right"), (False, "wrong")):
            at = group[group["ai_right"] == right]
            assisted = at[at["arm"] == "assisted"]
            records.append(
                _share(
                    keys | {"arm": "assisted", "measure": f"AI followed, AI {words}"},
                    int(assisted["follows"].sum()),
                    len(assisted),
                )
            )
            for arm in ("solo", "assisted"):
                of_arm = at[at["arm"] == arm]
                records.append(
                    _share(
                        keys | {"arm": arm, "measure": f"errors, AI {words}"},
                        int(of_arm["error"].sum()),
                        len(of_arm),
                    )
                )
    return rows(records, "organ level arm measure value low high unit n")


def _share(keys: dict[str, Any], hits: int, total: int) -> dict[str, Any]:
    found = proportion_of(hits, total)
    return keys | {
        "value": 100 * found.value,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "unit": "%",
        "n": total,
    }


def switches(events: pd.DataFrame, reads: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Tell how often readers who decided before the AI was shown changed their decision after it.

    Args:
        events: the rows `ai_shown` and `decision`, in the order of each session.
        reads: complete assisted screening reads.

    Returns:
        The table, and why it is empty if it is.
    """
    assisted = reads[reads["arm"] == "assisted"].set_index(["session_id", "case"])
    records = []
    for key, group in events.groupby(["session_id", "case"], sort=True):
        shown = group[group["type"] == "ai_shown"]["seq"]
        if key not in assisted.index or shown.empty:
            continue
        before = group[(group["type"] == "decision") & (group["seq"] < shown.min())]
        draft = next((d for d in map(_decision, before["payload"][::-1]) if d is not None), None)
        if draft is None:
            continue
        row = assisted.loc[[key]].iloc[0]
        records.append(
            {
                "organ": row["organ"],
                "level": row["level"],
                "draft": draft,
                "final": row["decision"],
                "positive": row["positive"],
            }
        )
    frame = rows(records, "organ level draft final positive")
    if frame.empty:
        return rows([], "organ level measure value low high unit n"), (
            "Switch rate: not estimable, as no reader decided before the AI was shown."
        )
    result = []
    for (organ, level), group in frame.groupby(["organ", "level"], sort=True):
        switched = group["draft"] != group["final"]
        right = switched & (group["final"] == group["positive"])
        keys = {"organ": organ, "level": level}
        result.append(
            _share(
                keys | {"measure": "decision changed after the AI was shown"},
                int(switched.sum()),
                len(group),
            )
        )
        result.append(
            _share(
                keys | {"measure": "of these, to the right one"},
                int(right.sum()),
                int(switched.sum()),
            )
        )
    return rows(result, "organ level measure value low high unit n"), ""


def _decision(payload: str) -> int | None:
    """The yes/no of a decision event, whatever its question is called; None if there is none."""
    try:
        content = json.loads(payload)
    except ValueError:
        return None
    found = [content.get("binary"), content.get("decision"), *content.values()]
    for value in found:
        if isinstance(value, bool) or value in (0, 1):
            return int(value)
        if isinstance(value, str) and value.lower() in ("yes", "no"):
            return int(value.lower() == "yes")
        if isinstance(value, dict) and (inner := _decision(json.dumps(value))) is not None:
            return inner
    return None


def attributes_with_ai(attributes: pd.DataFrame) -> pd.DataFrame:
    """Tell how often the AI's draft attributes were kept, where right and where wrong."""
    known = attributes[
        (attributes["arm"] == "assisted")
        & (attributes["ai_value"] != "")
        & (attributes["reference"] != "")
    ]
    records: list[dict[str, Any]] = []
    for (part, organ, level), group in known.groupby(["part", "organ", "level"], sort=True):
        keys = {"part": part, "organ": organ, "level": level}
        right = group["ai_value"] == group["reference"]
        kept = group["value"] == group["ai_value"]
        for at, words in ((right, "right"), (~right, "wrong")):
            records.append(
                _share(
                    keys | {"measure": f"draft kept, AI {words}"},
                    int((kept & at).sum()),
                    int(at.sum()),
                )
            )
        mended = ~right & (group["value"] == group["reference"])
        spoiled = right & ~kept
        records.append(
            _share(keys | {"measure": "wrong draft mended"}, int(mended.sum()), int((~right).sum()))
        )
        records.append(
            _share(keys | {"measure": "right draft spoiled"}, int(spoiled.sum()), int(right.sum()))
        )
    return rows(records, "part organ level measure value low high unit n")


def mask_edits(masks: pd.DataFrame, reads: pd.DataFrame) -> pd.DataFrame:
    """Tell how far assisted masks were edited: edits a mask, Dice with the AI's, taken unchanged."""
    records: list[dict[str, Any]] = []
    assisted = masks[(masks["arm"] == "assisted") & masks["ai_dice"].notna()]
    for (part, organ, level), group in assisted.groupby(["part", "organ", "level"], sort=True):
        keys = {"part": part, "organ": organ, "level": level}
        found = mean_of(group["ai_dice"])
        records.append(
            keys
            | {
                "measure": "Dice of the final mask with the AI's",
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "unit": "Dice",
                "n": found.n,
            }
        )
        records.append(
            _share(
                keys | {"measure": "AI mask taken unchanged"},
                int((group["ai_dice"] >= _UNCHANGED).sum()),
                len(group),
            )
        )
    edited = reads[(reads["task"] == "segment") & (reads["arm"] == "assisted")]
    for (part, organ, level), group in edited.groupby(["part", "organ", "level"], sort=True):
        found = mean_of(group["edits"])
        if found.n:
            records.append(
                {
                    "part": part,
                    "organ": organ,
                    "level": level,
                    "measure": "edits a mask",
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "unit": "edits",
                    "n": found.n,
                }
            )
    return rows(records, "part organ level measure value low high unit n")


def learning(reads: pd.DataFrame) -> pd.DataFrame:
    """Fit how time changes with practice: log seconds on log2 of the position in the list.

    Returns:
        By part, organ, reader and arm the change of time per doubling of the position, in relative
        % (negative: faster), errors HC3.
    """
    records: list[dict[str, Any]] = []
    by = ["part", "organ", "level", "reader", "arm"]
    known = reads[(reads["seconds"] > 0) & (reads["position"] > 0)]
    for keys, group in known.groupby(by, sort=True):
        names = dict(zip(by, keys, strict=True))
        if len(group) < 8:
            continue
        frame = group.assign(log_s=np.log(group["seconds"]), doubling=np.log2(group["position"]))
        found = robust_regression(frame, "log_s", ["doubling"])
        value, low, high = (100 * (math.exp(x) - 1) for x in (found.value, found.low, found.high))
        records.append(
            names
            | {
                "measure": "time per doubling of the cases read",
                "value": value,
                "low": low,
                "high": high,
                "unit": "relative % per doubling",
                "n": found.n,
                "p": found.p,
            }
        )
    return rows(records, "part organ level reader arm measure value low high unit n p")


def halves(reads: pd.DataFrame) -> pd.DataFrame:
    """Compare screening errors in the first and second half of each reader's reads, by arm."""
    records: list[dict[str, Any]] = []
    order = reads.groupby(["organ", "reader", "arm"])["position"].rank(method="first")
    size = reads.groupby(["organ", "reader", "arm"])["position"].transform("size")
    known = reads.assign(
        half=np.where(order <= size / 2, "first", "second"),
        error=reads["decision"] != reads["positive"],
    )
    for (organ, arm, half), group in known.groupby(["organ", "arm", "half"], sort=True):
        records.append(
            _share(
                {"organ": organ, "arm": arm, "half": half, "measure": "errors"},
                int(group["error"].sum()),
                len(group),
            )
        )
    return rows(records, "organ arm half measure value low high unit n")
