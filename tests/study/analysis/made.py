"""An export of a study that nobody read: tables in the export's format, with known effects.

The drawn effects are attributes of `Effects`, so that a test can compare an estimate with them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pasta.report.attributes import BY_NAME, PREDICTED

if TYPE_CHECKING:
    from pathlib import Path

READERS = {"J1": "junior", "J2": "junior", "S1": "senior", "S2": "senior"}
ORGANS = ("liver", "pancreas", "kidney")
LESIONS = ("liver_tumor", "liver_cyst", "kidney_stone")

PROTOCOL = """
[study]
id = "made"
title = "A made study"
seed = 1
washout_days = 0
idle_seconds = 30
clock_visible = true
[[readers]]
code = "J1"
level = "junior"
[[parts]]
name = "screening"
task = "screen"
organs = ["liver", "pancreas", "kidney"]
arms = ["solo", "assisted"]
budget_minutes = 30
allocation = "counterbalanced"
ai = ["screening"]
"""


@dataclass(frozen=True)
class Effects:
    """What is drawn.

    Attributes:
        sensitivity: solo and assisted.
        specificity: solo and assisted.
        saved: share of the time that assistance saves, by level.
        dice: mean solo and assisted.
        right: chance of a right attribute, solo and assisted.
        ai_right: of the AI's decisions and drafts.
        positives: a half of the cases, of each organ.
        negatives: likewise.
        most_read: cases a reader reaches in the budget, solo and assisted; None reads all.
        crossed: every reader reads every case in both arms.
    """

    sensitivity: tuple[float, float] = (0.68, 0.91)
    specificity: tuple[float, float] = (0.95, 0.985)
    saved: dict[str, float] | None = None
    dice: tuple[float, float] = (0.73, 0.82)
    right: tuple[float, float] = (0.80, 0.90)
    ai_right: float = 0.9
    positives: int = 30
    negatives: int = 150
    most_read: tuple[int, int] | None = (62, 74)
    crossed: bool = False

    def saved_by(self, level: str) -> float:
        return (self.saved or {"junior": 0.6, "senior": 0.45})[level]


def code(*words: object) -> str:
    return "c-" + hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()[:16]


class Made:
    """Collects the rows of the tables while reads are drawn."""

    def __init__(self, effects: Effects, seed: int) -> None:
        self.effects = effects
        self.rng = np.random.default_rng(seed)
        names = ("reads", "attributes", "answers", "events", "cases", "allocation", "masks")
        self.rows: dict[str, list[dict]] = {name: [] for name in names}
        self.case_effect: dict[str, float] = {}
        self.ai: dict[str, tuple[int, float]] = {}

    def time(self, case: str, reader: str, arm: str, base_s: float, saved: float) -> float:
        effect = self.case_effect.setdefault(case, float(self.rng.normal(0, 0.3)))
        speed = {"J1": 0.1, "J2": 0.0, "S1": -0.1, "S2": -0.15}.get(reader, 0.0)
        log = np.log(base_s) + speed + effect + self.rng.normal(0, 0.25)
        return float(np.exp(log + (np.log(1 - saved) if arm == "assisted" else 0)))

    def read(self, **row: object) -> None:
        seconds = float(row["seconds"])
        load = 1.5
        self.rows["reads"].append(
            {
                "study_id": "made",
                "block_order": 1,
                "training": 0,
                "status": "complete",
                "positive": "",
                "decision": "",
                "score": "",
                "started_utc": "2026-11-02T08:00:00.000000Z",
                "seconds_from_display": seconds - load,
                "reading_seconds": seconds - load,
                "active_seconds": 0.9 * (seconds - load),
                "idle_seconds": 0,
                "unfocused_seconds": 0,
                "ai_wait_seconds": 0,
                "load_seconds": load,
                "save_wait_seconds": 0.2,
                "paused_seconds": 0,
                "pauses": 0,
                "suspends": 0,
                "interrupted": 0,
                "ai_score": "",
                "ai_decision": "",
                "edits": "",
                "session_id": f"s-{row['block']}",
            }
            | row
        )


def screening(made: Made) -> None:
    e, rng = made.effects, made.rng
    for organ in ORGANS:
        halves = {}
        for positive, count in ((1, e.positives), (0, e.negatives)):
            cases = [code("screening", organ, positive, i) for i in range(2 * count)]
            for case in cases:
                decision = positive if rng.random() < e.ai_right else 1 - positive
                made.ai[case] = (
                    decision,
                    float(np.clip(rng.normal(80 * decision + 10, 8), 0, 100)),
                )
                made.rows["cases"].append(
                    {
                        "case": case,
                        "organ": organ,
                        "part": "screening",
                        "positive": positive,
                        "source": "",
                        "group": "",
                    }
                )
            for half, chosen in (("A", cases[:count]), ("B", cases[count:])):
                halves.setdefault(half, []).extend((case, positive) for case in chosen)
        for number, (reader, level) in enumerate(READERS.items()):
            for arm in ("solo", "assisted"):
                half = "AB"[(number % 2) ^ (arm == "assisted")]
                listed = halves["A"] + halves["B"] if e.crossed else halves[half]
                listed = [listed[i] for i in rng.permutation(len(listed))]
                block = f"{reader}-screening-{organ}-{arm}"
                for position, (case, _) in enumerate(listed, 1):
                    made.rows["allocation"].append(
                        {
                            "reader": reader,
                            "level": level,
                            "block": block,
                            "order": 1,
                            "part": "screening",
                            "organ": organ,
                            "arm": arm,
                            "case": case,
                            "position": position,
                        }
                    )
                most = e.most_read[arm == "assisted"] if e.most_read else len(listed)
                for position, (case, positive) in enumerate(listed[: most + 3 * number], 1):
                    chance = (e.sensitivity if positive else e.specificity)[arm == "assisted"]
                    decision = positive if rng.random() < chance else 1 - positive
                    score = float(np.clip(rng.normal(60 * decision + 20, 15), 0, 100))
                    seconds = made.time(case, reader, arm, 24.0, 0.2)
                    ai = made.ai[case] if arm == "assisted" else ("", "")
                    made.read(
                        reader=reader,
                        level=level,
                        part="screening",
                        task="screen",
                        organ=organ,
                        arm=arm,
                        block=block,
                        case=case,
                        position=position,
                        positive=positive,
                        decision=decision,
                        score=round(score, 1),
                        seconds=seconds,
                        ai_decision=ai[0],
                        ai_score=ai[1],
                    )


def segmentation_and_report(made: Made, per_arm: int) -> None:
    e, rng = made.effects, made.rng
    for organ in ORGANS:
        cases = [code("diagnosis", organ, i) for i in range(2 * per_arm)]
        truth, draft = {}, {}
        for case in cases:
            truth[case] = {a: str(rng.choice(BY_NAME[a].options)) for a in PREDICTED}
            draft[case] = {
                a: v if rng.random() < e.ai_right else other(a, v, rng)
                for a, v in truth[case].items()
            }
            made.rows["cases"].append(
                {
                    "case": case,
                    "organ": organ,
                    "part": "",
                    "positive": 1,
                    "source": "real",
                    "group": "",
                }
            )
        for number, (reader, level) in enumerate(READERS.items()):
            for arm in ("solo", "assisted"):
                half = (number % 2) ^ (arm == "assisted")
                listed = cases[half * per_arm : (half + 1) * per_arm]
                for part, task, base in (("masks", "segment", 400.0), ("reports", "report", 150.0)):
                    saved = e.saved_by(level) if task == "segment" else 0.3
                    block = f"{reader}-{part}-{organ}-{arm}"
                    for position, case in enumerate(rng.permutation(listed), 1):
                        made.read(
                            reader=reader,
                            level=level,
                            part=part,
                            task=task,
                            organ=organ,
                            arm=arm,
                            block=block,
                            case=case,
                            position=position,
                            seconds=made.time(case, reader, arm, base, saved),
                            edits=int(rng.poisson(6)) if task == "segment" else "",
                        )
                        if task == "segment":
                            mask(made, case, organ, part, reader, level, arm)
                        else:
                            report(made, case, organ, part, reader, level, arm, truth, draft)


def other(attribute: str, value: str, rng: np.random.Generator) -> str:
    return str(rng.choice([o for o in BY_NAME[attribute].options if o != value]))


def mask(made: Made, case: str, organ: str, part: str, reader: str, level: str, arm: str) -> None:
    rng = made.rng
    mean = made.effects.dice[arm == "assisted"] + (0.06 if level == "senior" else 0.0)
    dice = float(np.clip(mean + 0.2 * made.case_effect[case] + rng.normal(0, 0.05), 0, 1))
    made.rows["masks"].append(
        {
            "case": case,
            "organ": organ,
            "part": part,
            "reader": reader,
            "level": level,
            "arm": arm,
            "dice": dice,
            "nsd_2mm": min(1.0, dice + 0.08),
            "hd95_mm": 20 * (1 - dice),
            "volume_ml": 11.0,
            "reference_volume_ml": 10.0,
            "ai_dice": float(rng.choice([1.0, 0.93])) if arm == "assisted" else "",
        }
    )


def report(
    made: Made,
    case: str,
    organ: str,
    part: str,
    reader: str,
    level: str,
    arm: str,
    truth: dict,
    draft: dict,
) -> None:
    for attribute, reference in truth[case].items():
        right = made.rng.random() < made.effects.right[arm == "assisted"]
        value = reference if right else other(attribute, reference, made.rng)
        ai = draft[case][attribute] if arm == "assisted" else ""
        made.rows["attributes"].append(
            {
                "reader": reader,
                "level": level,
                "part": part,
                "organ": organ,
                "arm": arm,
                "case": case,
                "lesion": 1,
                "attribute": attribute,
                "value": value,
                "reference": reference,
                "ai_value": ai,
                "changed": int(bool(ai) and ai != value),
            }
        )


def rated(made: Made, per_lesion: int) -> None:
    rng = made.rng
    for task, sources in (("realism", ("real", "synthetic")), ("consistency", ("synthetic",))):
        for lesion in LESIONS:
            organ = lesion.split("_")[0]
            for source in sources:
                for i in range(per_lesion):
                    case = code(task, lesion, source, i)
                    quality = 4.6 + rng.normal(0, 0.3) - (0.15 if source == "synthetic" else 0)
                    made.rows["cases"].append(
                        {
                            "case": case,
                            "organ": organ,
                            "part": task,
                            "positive": "",
                            "source": source,
                            "group": lesion,
                        }
                    )
                    for reader, level in READERS.items():
                        made.read(
                            reader=reader,
                            level=level,
                            part=task,
                            task=task,
                            organ=organ,
                            arm="solo",
                            block=f"{reader}-{task}-{organ}-solo",
                            case=case,
                            position=i + 1,
                            seconds=float(rng.uniform(8, 20)),
                        )
                        questions = ("realism",) if task == "realism" else PREDICTED
                        for question in questions:
                            value = int(np.clip(round(quality + rng.normal(0, 0.5)), 1, 5))
                            made.rows["answers"].append(
                                {
                                    "reader": reader,
                                    "part": task,
                                    "organ": organ,
                                    "arm": "solo",
                                    "case": case,
                                    "question": question,
                                    "type": "likert",
                                    "value": value,
                                }
                            )


COLUMNS = {
    "attributes": "reader level part organ arm case lesion attribute value reference ai_value changed",
    "answers": "reader part organ arm case question type value",
    "events": "session_id seq type reader arm task organ case position mono_ns utc payload sha256",
    "cases": "case organ part positive source group",
    "allocation": "reader level block order part organ arm case position",
    "masks": "case organ part reader level arm dice nsd_2mm hd95_mm volume_ml reference_volume_ml "
    "ai_dice",
}


def made_tables(effects: Effects | None = None, seed: int = 1, *, per_arm: int = 50) -> dict:
    """Draw a study.

    Args:
        effects: what to draw.
        seed: of all draws.
        per_arm: cases of segmentation and report per organ, reader and arm; 0 leaves them out.

    Returns:
        The tables by name, as frames.
    """
    made = Made(effects or Effects(), seed)
    screening(made)
    if per_arm:
        segmentation_and_report(made, per_arm)
        rated(made, 20)
    return {
        name: pd.DataFrame(rows, columns=COLUMNS[name].split() if name in COLUMNS else None)
        for name, rows in made.rows.items()
    }


def write_export(
    path: Path, tables: dict, *, locked: bool = True, problems: list | None = None
) -> Path:
    """Write tables as the zip of an export."""
    members = {f"{name}.csv": csv(frame) for name, frame in tables.items()}
    members["protocol.toml"] = PROTOCOL.encode()
    manifest = {
        "study_id": "made",
        "lock": {"sha256": "0" * 64, "weights": {"screening": "0" * 64}} if locked else None,
        "problems": problems or [],
        "members": {n: hashlib.sha256(data).hexdigest() for n, data in members.items()},
    }
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def csv(frame: pd.DataFrame) -> bytes:
    file = io.StringIO()
    frame.to_csv(file, index=False)
    return file.getvalue().encode()
