"""Blinded realism study: real and synthetic crops 1:1 under sealed names, and the tables of Fig. 5.

A packet has two halves. `images/` goes to the server that the readers use: crops of one size, named
by a keyed hash, nothing in them that tells real from synthetic. `sealed/` stays with the coordinator:
the key, the case list of the reader study, its protocol. The hash of the key stands in both, so that
a key cannot be changed after the readings.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import secrets
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, stats

from pasta.errors import OutputError, PastaError
from pasta.geometry import Volume, reoriented
from pasta.io import read_labelmap, read_volume
from pasta.io.files import atomic_file
from pasta.io.nifti import write_nifti
from pasta.labels import LESIONS, label_named
from pasta.preprocessing.resampling import grid_map
from pasta.report.attributes import PREDICTED
from training.synthesis.cases import box_around, drawn, recipes_of
from training.synthesis.planning import PlannedCase, opened, read_plan, require_same_code
from training.synthesis.standardisation import hu_at_1mm, labels_at_1mm
from training.synthesis.templates import AIR_HU, AXCODES, TemplateStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP_MM = 112
SHIFT_MM = 12  # lesions are not always in the middle, in either kind
REAL, SYNTHETIC = "real", "synthetic"
_TYPES = tuple(lesion.name for lesion in LESIONS)
_KEY_FORMAT = 1
_QUESTIONS = {
    "shape": "Shape",
    "density": "Density",
    "heterogeneity": "Heterogeneity",
    "surface": "Surface",
    "invasion": "Relation to surrounding structures",
}


class RealismError(PastaError, ValueError):
    """A packet cannot be made of what there is, or its ratings and key do not fit."""


@dataclass(frozen=True, slots=True)
class RealCase:
    """One real lesion: CT, mask of label values, lesion type."""

    ct: Path
    labelmap: Path
    type: str
    value: int


@dataclass(frozen=True, slots=True)
class Rating:
    """One Likert answer of one reader."""

    reader: str
    image: str
    question: str
    rating: int


def read_real_cases(path: Path) -> list[RealCase]:
    """Read the list of real lesions; paths are relative to its folder.

    Columns: ct, labelmap, type (a lesion type); and if wanted value, the lesion's value in the
    labelmap (default: its label value, else any non-zero value of a mask).

    Raises:
        RealismError: if a row lacks something; the message names its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: not readable as CSV ({error}). Save it as UTF-8 CSV."
        raise RealismError(msg) from error
    cases = []
    for line, row in enumerate(rows, start=2):
        cell = {key: (value or "").strip() for key, value in row.items() if key}
        if not cell.get("ct") or not cell.get("labelmap") or cell.get("type") not in _TYPES:
            msg = f"{path}, line {line}: needs ct, labelmap and type, such as {_TYPES[1]}."
            raise RealismError(msg)
        value = cell.get("value") or "0"
        if not value.isdigit():
            msg = f"{path}, line {line}: value is {value!r}, expected a whole number."
            raise RealismError(msg)
        cases.append(
            RealCase(
                path.parent / cell["ct"], path.parent / cell["labelmap"], cell["type"], int(value)
            )
        )
    return cases


def pack(
    plan: Path,
    store: TemplateStore,
    real: Sequence[RealCase],
    out: Path,
    *,
    per_type: int = 30,
    described: int = 50,
    crop_mm: int = CROP_MM,
    seed: int = 0,
) -> dict[str, dict[str, int]]:
    """Write a packet.

    Args:
        plan: finished plan that synthetic lesions come from.
        store: of its templates.
        real: real lesions.
        out: folder of the packet, new or empty.
        per_type: real lesions of each type, and as many synthetic ones.
        described: synthetic lesions of each type whose description is rated.
        crop_mm: edge of every crop.
        seed: of choice and shift; the names come from a secret drawn anew.

    Returns:
        By lesion type the number of real, synthetic and described crops.

    Raises:
        RealismError: if the folder is not empty, or there is no type with real and synthetic lesions.
        PastaError: if a file cannot be read or written.
    """
    if out.exists() and any(out.iterdir()):
        msg = f"{out}: not empty; a packet is made once. Choose a new folder."
        raise RealismError(msg)
    require_same_code(plan, store)
    rng = np.random.default_rng(seed)
    synthetic: dict[str, list[PlannedCase]] = defaultdict(list)
    for case in read_plan(plan):
        if case.recipes:
            synthetic[case.type].append(case)
    by_type: dict[str, list[RealCase]] = defaultdict(list)
    for lesion in real:
        by_type[lesion.type].append(lesion)
    entries: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for name in _TYPES:
        pairs = min(per_type, len(by_type[name]), len(synthetic[name]))
        chosen = [synthetic[name][n] for n in rng.permutation(len(synthetic[name]))]
        of_real = [by_type[name][n] for n in rng.permutation(len(by_type[name]))]
        entries += [
            {"part": "realism", "source": REAL, "type": name, "real": r} for r in of_real[:pairs]
        ]
        entries += [
            {"part": "realism", "source": SYNTHETIC, "type": name, "case": c}
            for c in chosen[:pairs]
        ]
        complete = [c for c in chosen if all(c.reports[0].get(a) for a in PREDICTED)]
        # those not shown for realism come first: a reader should not meet a lesion twice
        fresh = sorted(complete, key=lambda c: any(c is seen for seen in chosen[:pairs]))
        told = fresh[:described]
        entries += [
            {"part": "consistency", "source": SYNTHETIC, "type": name, "case": c} for c in told
        ]
        if pairs or told:
            counts[name] = {REAL: pairs, SYNTHETIC: pairs, "described": len(told)}
    if not entries:
        msg = f"{plan}: no lesion type has both real and synthetic lesions, and none is described."
        raise RealismError(msg)
    secret = secrets.token_bytes(32)
    for number, entry in enumerate(entries):
        name = hmac.new(secret, str(number).encode(), hashlib.sha256).hexdigest()[:16]
        entry["image"] = name
        entry["shift"] = rng.integers(-SHIFT_MM, SHIFT_MM + 1, 3).tolist()
    entries.sort(key=lambda entry: str(entry["image"]))  # a keyed hash: a shuffle nobody can undo
    _write_packet(out, entries, secret, store, crop_mm)
    return counts


def _write_packet(
    out: Path, entries: list[dict[str, Any]], secret: bytes, store: TemplateStore, crop_mm: int
) -> None:
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "sealed" / "masks").mkdir(parents=True, exist_ok=True)
        (out / "sealed").chmod(0o700)
    except OSError as error:
        msg = f"{out}: cannot be made ({error.strerror}). Choose another folder."
        raise OutputError(msg) from error
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    key: list[dict[str, Any]] = []
    for entry in entries:
        if entry["source"] == REAL:
            hu, mask, about = real_crop(entry["real"], entry["shift"], crop_mm)
            report: Mapping[str, Any] = {}
        else:
            hu, mask, about = _synthetic_crop(entry["case"], store, entry["shift"], crop_mm)
            report = entry["case"].reports[0]
        name = entry["image"]
        write_nifti(Volume(hu, affine), out / "images" / f"{name}.nii.gz")
        write_nifti(Volume(mask, affine), out / "sealed" / "masks" / f"{name}.nii.gz")
        attributes = (
            {a: report.get(a) or "" for a in PREDICTED} if entry["part"] == "consistency" else {}
        )
        key.append(
            {
                "image": name,
                "part": entry["part"],
                "source": entry["source"],
                "type": entry["type"],
                "attributes": attributes,
                "from": about,
            }
        )
    text = json.dumps({"format": _KEY_FORMAT, "secret": secret.hex(), "images": key}, indent=1)
    commitment = hashlib.sha256(text.encode()).hexdigest()
    _put(out / "sealed" / "protocol.toml", _protocol(key))
    _put(out / "sealed" / "cases.csv", _cases(key))
    _put(out / "sealed" / "key.json", text)
    (out / "sealed" / "key.json").chmod(0o600)
    manifest = {"images": len(key), "crop_mm": crop_mm, "key_sha256": commitment}
    _put(out / "packet.json", json.dumps(manifest, indent=1) + "\n")  # last: now it is complete


def _put(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _placed(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], centre: Sequence[float], crop_mm: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    i, j, k = hu.shape
    box = box_around((i, j, k), centre, (crop_mm,) * 3)
    crop = np.full((crop_mm,) * 3, AIR_HU, np.int16)
    lesion = np.zeros((crop_mm,) * 3, np.uint8)
    inside = tuple(slice(0, part.stop - part.start) for part in box)
    crop[inside], lesion[inside] = hu[box], mask[box]
    return crop, lesion


def real_crop(
    case: RealCase, shift: Sequence[int], crop_mm: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], str]:
    """Cut a cube about the largest part of a real lesion.

    Args:
        case: CT, labelmap and type.
        shift: voxels by which the lesion lies off the middle.
        crop_mm: edge of the cube.

    Returns:
        HU and mask at 1 mm along L, P, S, and the names of folder and file.

    Raises:
        PastaError: if a file cannot be read or holds no such lesion.
    """
    ct = read_volume(case.ct)
    labelmap = read_labelmap(case.labelmap, ct.grid, highest=255)
    own = label_named(case.type).value
    values = set(np.unique(labelmap.voxels).tolist())
    if case.value:
        wanted = labelmap.voxels == case.value
    else:
        wanted = labelmap.voxels == own if own in values else labelmap.voxels > 0
    if not wanted.any():
        msg = f"{case.labelmap.name}: holds no voxel of value {case.value or own} ({case.type})."
        raise RealismError(msg)
    plan = grid_map(ct.grid, AXCODES, (1.0,) * 3)
    turned = reoriented(Volume(wanted.astype(np.uint8), labelmap.affine), AXCODES).voxels
    mask = labels_at_1mm(turned, plan) > 0
    hu = hu_at_1mm(ct, plan)
    parts, _ = ndimage.label(mask)
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    centre = np.array(ndimage.center_of_mass(parts == largest)) + shift
    crop, lesion = _placed(hu, mask, centre.tolist(), crop_mm)
    return crop, lesion, f"{case.ct.parent.name}/{case.ct.name}"


def _synthetic_crop(
    case: PlannedCase, store: TemplateStore, shift: Sequence[int], crop_mm: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], str]:
    template = opened(store.folder.resolve(), case.template)
    recipes = recipes_of(case.recipes, f"case {case.number}")
    centre = np.array(recipes[0].centre) + shift
    piece = drawn(template, recipes, box_around(template.shape, centre.tolist(), (crop_mm,) * 3))
    mask = piece.labels == label_named(case.type).value
    middle = [n / 2 for n in piece.hu.shape]
    crop, lesion = _placed(piece.hu, mask, middle, crop_mm)
    return crop, lesion, f"plan case {case.number}"


def _protocol(key: Sequence[Mapping[str, Any]]) -> str:
    """The parts of a reader study's protocol.toml; readers are added by the coordinator."""
    lines = [
        "# Put these parts into the protocol.toml of a reader study, beside its [study] and [[readers]].",
    ]
    for part, questions in (
        (
            "realism",
            {
                "realism": "How realistic is the lesion? 1 completely unrealistic, "
                "5 indistinguishable from a real CT"
            },
        ),
        (
            "consistency",
            {
                name: f"{title}: 1 completely inaccurate, 5 perfectly accurate"
                for name, title in _QUESTIONS.items()
            },
        ),
    ):
        organs = sorted({label_named(e["type"]).organ for e in key if e["part"] == part})
        if not organs:
            continue
        lines += [
            "",
            "[[parts]]",
            f'name = "{part}"',
            f'task = "{part}"',
            f"organs = {json.dumps(organs)}",
            'arms = ["solo"]',
            'allocation = "crossed"',
            'hide = ["case_id", "time_left"]',
        ]
        for name, text in questions.items():
            lines += [
                "",
                "[[parts.questions]]",
                f'id = "{name}"',
                f'text = "{text}"',
                'type = "likert"',
                "min = 1",
                "max = 5",
            ]
    return "\n".join(lines) + "\n"


def _cases(key: Sequence[Mapping[str, Any]]) -> str:
    columns = ["image", "organ", "part", "source", "group"]
    columns += [f"reference_{name}" for name in PREDICTED]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for entry in key:
        writer.writerow(
            {
                "image": entry["image"],
                "organ": label_named(entry["type"]).organ,
                "part": entry["part"],
                "source": entry["source"],
                "group": entry["type"],
                **{f"reference_{name}": text for name, text in entry["attributes"].items()},
            }
        )
    return out.getvalue()


def read_ratings(path: Path) -> list[Rating]:
    """Read Likert ratings: a CSV, or the export zip of a reader study.

    The CSV has the columns reader, image (or case), question and rating (or value); the zip is what
    the reader study exports, whose `answers.csv` names cases by code.

    Raises:
        RealismError: if it cannot be read, or a rating is not 1 to 5; the message names the line.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                text = packed.read("answers.csv").decode("utf-8-sig")
        else:
            text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, zipfile.BadZipFile) as error:
        msg = f"{path}: neither a CSV of ratings nor the export of a reader study ({error})."
        raise RealismError(msg) from error
    known = {"realism", *PREDICTED}
    ratings = []
    for line, row in enumerate(rows, start=2):
        image, value = row.get("image") or row.get("case"), row.get("rating") or row.get("value")
        if row.get("question") not in known:
            continue
        if not image or not row.get("reader") or value not in {"1", "2", "3", "4", "5"}:
            msg = f"{path}, line {line}: needs reader, image, question and a rating from 1 to 5."
            raise RealismError(msg)
        ratings.append(Rating(row["reader"], image, row["question"], int(value)))
    if not ratings:
        msg = f"{path}: no rating of realism or of an attribute in it."
        raise RealismError(msg)
    return ratings


def read_key(packet: Path, codes: Path | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """Open the seal: by image and part, its source and type.

    Args:
        packet: folder of the packet.
        codes: export zip of a reader study, whose `cases.csv` gives source and group by case code;
            then the key is only checked.

    Raises:
        RealismError: if the key is missing, damaged, or not the one that was sealed.
    """
    try:
        text = (packet / "sealed" / "key.json").read_text(encoding="utf-8")
        sealed = json.loads((packet / "packet.json").read_text(encoding="utf-8"))["key_sha256"]
    except (OSError, ValueError, KeyError) as error:
        msg = f"{packet}: sealed/key.json or packet.json is missing or damaged. Name the packet's folder."
        raise RealismError(msg) from error
    if hashlib.sha256(text.encode()).hexdigest() != sealed:
        msg = (
            f"{packet}: sealed/key.json is not the key that was sealed; it was changed afterwards."
        )
        raise RealismError(msg)
    if codes is not None and zipfile.is_zipfile(codes):
        with zipfile.ZipFile(codes) as packed:
            rows = csv.DictReader(io.StringIO(packed.read("cases.csv").decode("utf-8-sig")))
            return {
                (row["case"], row["part"]): {"source": row["source"], "type": row["group"]}
                for row in rows
            }
    return {(entry["image"], entry["part"]): entry for entry in json.loads(text)["images"]}


def score(
    ratings: Iterable[Rating], key: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Make the tables of Fig. 5b and 5c.

    A case's rating is the mean over its readers; means and 95 % intervals (Student's t) are over
    cases. "told_apart" is the chance that a reader rates a real case above a synthetic one (0.5:
    cannot tell), with the p value of Mann and Whitney over cases.

    Args:
        ratings: of all readers.
        key: of `read_key`.

    Returns:
        "realism" rows (type, source, ...), "told_apart" rows (type, ...), "consistency" rows
        (type, attribute, ...), and "missing" rows: images that some reader left out.

    Raises:
        RealismError: if a rating names an image that is not in the packet.
    """
    table: dict[tuple[str, str, str, str], dict[str, dict[str, int]]] = defaultdict(dict)
    readers: dict[str, set[str]] = {"realism": set(), "consistency": set()}
    for one in ratings:
        part = "realism" if one.question == "realism" else "consistency"
        entry = key.get((one.image, part)) or key.get((one.image, ""))
        if entry is None:
            msg = (
                f"image {one.image}: rated for {part}, but not in this packet. Name its own packet."
            )
            raise RealismError(msg)
        row = (part, str(entry["type"]), str(entry["source"]), one.question)
        table[row].setdefault(one.image, {})[one.reader] = one.rating
        readers[part].add(one.reader)
    realism, consistency, apart = [], [], []
    for (part, kind, source, question), cases in sorted(table.items()):
        found = _summary(cases)
        if part == "realism":
            realism.append({"type": kind, "source": source, **found})
        else:
            consistency.append({"type": kind, "attribute": question, **found})
    for kind in sorted({row[1] for row in table if row[0] == "consistency"}):
        together: dict[str, dict[str, int]] = {}
        for row, cases in table.items():
            if row[0] == "consistency" and row[1] == kind:
                together |= {f"{row[3]} {image}": given for image, given in cases.items()}
        consistency.append({"type": kind, "attribute": "all", **_summary(together)})
    for kind in sorted({row[1] for row in table if row[0] == "realism"}):
        real = table.get(("realism", kind, REAL, "realism"))
        drawn_ = table.get(("realism", kind, SYNTHETIC, "realism"))
        if real and drawn_:
            apart.append({"type": kind, **_apart(real, drawn_)})
    missing = [
        {"image": image, "part": part, "reader": reader}
        for (image, part) in sorted(key)
        for reader in sorted(readers.get(part, ()))
        if not any(reader in cases.get(image, {}) for row, cases in table.items() if row[0] == part)
    ]
    return {
        "realism": realism,
        "told_apart": apart,
        "consistency": consistency,
        "missing": missing,
    }


def _summary(cases: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    means = np.array([np.mean(list(given.values())) for given in cases.values()])
    ratings = [rating for given in cases.values() for rating in given.values()]
    half = float("nan")
    if len(means) > 1:
        half = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
    return {
        "mean": round(float(means.mean()), 3),
        "low": round(max(1.0, float(means.mean()) - half), 3) if half == half else None,
        "high": round(min(5.0, float(means.mean()) + half), 3) if half == half else None,
        "share_4_or_5": round(float(np.mean(np.array(ratings) >= 4)), 3),
        "cases": len(means),
        "readers": len({reader for given in cases.values() for reader in given}),
        "ratings": len(ratings),
    }


def _apart(
    real: Mapping[str, Mapping[str, int]], synthetic: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    readers = sorted(
        {reader for given in (*real.values(), *synthetic.values()) for reader in given}
    )
    chances = []
    for reader in readers:
        a = np.array([given[reader] for given in real.values() if reader in given])
        b = np.array([given[reader] for given in synthetic.values() if reader in given])
        if a.size and b.size:
            chances.append(float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b))))
    means = [
        [float(np.mean(list(given.values()))) for given in side.values()]
        for side in (real, synthetic)
    ]
    test = stats.mannwhitneyu(means[0], means[1])
    return {
        "real_minus_synthetic": round(float(np.mean(means[0]) - np.mean(means[1])), 3),
        "chance_real_above": round(float(np.mean(chances)), 3) if chances else None,
        "p": float(f"{test.pvalue:.3g}"),
        "readers": len(chances),
    }


def write_tables(tables: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
    """Write one CSV for each table.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: cannot be made ({error.strerror}). Choose another folder."
        raise OutputError(msg) from error
    for name, rows in tables.items():
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        _put(out / f"{name}.csv", text.getvalue())
