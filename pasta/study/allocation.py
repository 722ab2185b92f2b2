"""Who reads which case in which arm and when: drawn from one seed, the same on every machine.

Standard library only. Every shuffle sorts by SHA-256 of seed, context and name: no random number
generator, no order of rows and no version of Python has a say in it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pasta.study.cases import cases_of, training_of
from pasta.study.findings import StudyError
from pasta.study.protocol import ARMS, ASSISTED, LEVELS, SOLO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pasta.study.cases import StudyCase
    from pasta.study.protocol import Part, Protocol, Reader

ALLOCATION_FILE = "allocation.json"
SCHEMA = "pasta-aid/allocation/1"
_HALVES = 2


@dataclass(frozen=True, slots=True)
class Block:
    """What one reader reads of one organ in one arm, under one time budget.

    Attributes:
        id: such as "J1-screening-liver-solo".
        reader: pseudonym.
        part: name.
        organ: name.
        arm: "solo" or "assisted".
        order: of this block among all of the reader's, from 1.
        images: ids in reading order.
        training: ids that are read first and never analysed.
    """

    id: str
    reader: str
    part: str
    organ: str
    arm: str
    order: int
    images: tuple[str, ...]
    training: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """All blocks of a study.

    Attributes:
        study_id: of the protocol.
        seed: of the protocol.
        blocks: by reader as in the protocol, then by order.
    """

    study_id: str
    seed: int
    blocks: tuple[Block, ...]

    def of(self, reader: str) -> tuple[Block, ...]:
        """List the blocks of one reader in their order."""
        blocks = (block for block in self.blocks if block.reader == reader)
        return tuple(sorted(blocks, key=lambda block: block.order))

    def block(self, identifier: str) -> Block:
        """Look a block up by its id.

        Raises:
            KeyError: if there is none.
        """
        for block in self.blocks:
            if block.id == identifier:
                return block
        raise KeyError(identifier)

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {
            "schema": SCHEMA,
            "study_id": self.study_id,
            "seed": self.seed,
            "blocks": [
                {
                    **asdict(block),
                    "images": list(block.images),
                    "training": list(block.training),
                }
                for block in self.blocks
            ],
        }

    def text(self) -> str:
        """Write the JSON document as it is kept: the same bytes every time."""
        return json.dumps(self.document(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Allocation:
        """Read the JSON document.

        Raises:
            StudyError: if it is no allocation.
        """
        try:
            if document["schema"] != SCHEMA:
                raise ValueError(document["schema"])
            blocks = tuple(
                Block(
                    **{
                        **block,
                        "images": tuple(map(str, block["images"])),
                        "training": tuple(map(str, block["training"])),
                    }
                )
                for block in document["blocks"]
            )
            return cls(str(document["study_id"]), int(document["seed"]), blocks)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{ALLOCATION_FILE} is damaged ({error}); write it anew: pasta study allocate."
            raise StudyError(msg) from error


def allocate(protocol: Protocol, cases: Iterable[StudyCase]) -> Allocation:
    """Draw the allocation of a study.

    Counterbalanced: each organ's cases part into halves A and B, alike in truth, source and group;
    one half of each level reads A solo and B assisted, the other the reverse. So no reader sees a
    case in both arms, and every case is read equally often in both: how hard a case is cancels out
    of the contrast. Random: each reader gets disjoint draws of his own, as in the paper. Crossed:
    everybody reads everything in every arm.

    The order of a reader's blocks is a row of a Williams square over organs x arms, chosen so that
    half of the readers start solo; parts follow one another as in the protocol. The order of cases
    is drawn for each reader.

    Args:
        protocol: of the study.
        cases: of the study.

    Returns:
        The blocks.
    """
    pool = tuple(cases)
    halves = _sides(protocol.readers)
    blocks: dict[str, list[Block]] = {reader.code: [] for reader in protocol.readers}
    for part in protocol.parts:
        found = {organ: cases_of(part, organ, pool) for organ in part.organs}
        orders = _orders(protocol, part)
        for reader in protocol.readers:
            for organ, arm in orders[reader.code]:
                drawn = _drawn(protocol, part, organ, found[organ], reader, halves)[arm]
                images = shuffled(drawn, protocol.seed, "order", reader.code, part.name, organ, arm)
                blocks[reader.code].append(
                    Block(
                        id=f"{reader.code}-{part.name}-{organ}-{arm}",
                        reader=reader.code,
                        part=part.name,
                        organ=organ,
                        arm=arm,
                        order=len(blocks[reader.code]) + 1,
                        images=tuple(images),
                        training=training_of(part, organ, pool),
                    )
                )
    ordered = tuple(block for reader in protocol.readers for block in blocks[reader.code])
    return Allocation(protocol.id, protocol.seed, ordered)


def shuffled(names: Iterable[str], seed: int, *context: str) -> list[str]:
    """Put names into an order that seed and context alone decide."""

    def key(name: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, *context, name]).encode()).digest()

    return sorted(names, key=key)


def _drawn(
    protocol: Protocol,
    part: Part,
    organ: str,
    cases: Sequence[StudyCase],
    reader: Reader,
    halves: Mapping[str, int],
) -> dict[str, list[str]]:
    """Choose the images of one reader in each arm."""
    if part.allocation == "crossed":
        return {arm: [case.image for case in cases] for arm in part.arms}
    if part.allocation == "counterbalanced":
        # no word of the part: the same images part into the same halves in every part, so a reader
        # who segments a case solo also reports on it solo
        parted = _parted(cases, _HALVES, protocol.seed, "halves", organ)
        solo = halves[reader.code]
        return {SOLO: parted[solo], ASSISTED: parted[1 - solo]}
    context = ("draw", reader.code, part.name, organ)
    wanted = part.cases_per_arm or 0
    chosen = _chosen(cases, wanted * len(part.arms), protocol.seed, *context)
    parted = _parted(chosen, len(part.arms), protocol.seed, *context)
    return dict(zip(part.arms, parted, strict=True))


def _stratum(case: StudyCase) -> tuple[str, str, str]:
    return (str(case.positive), case.source, case.group)


def _parted(cases: Sequence[StudyCase], count: int, seed: int, *context: str) -> list[list[str]]:
    """Part cases into sets of one size that are alike; one patient's cases stay together."""
    sets: list[list[str]] = [[] for _ in range(count)]
    positives: list[Counter[str]] = [Counter() for _ in range(count)]
    strata: list[Counter[tuple[str, str, str]]] = [Counter() for _ in range(count)]
    patients: dict[str, list[StudyCase]] = defaultdict(list)
    for case in cases:
        patients[f"patient {case.patient}" if case.patient else f"image {case.image}"].append(case)
    rank = {name: place for place, name in enumerate(shuffled(patients, seed, *context))}
    # the largest first, or the last one could not be made up for
    units = sorted(
        patients, key=lambda name: (-len(patients[name]), _stratum(patients[name][0]), rank[name])
    )
    for number, name in enumerate(units):
        unit = patients[name]
        kinds, classes = {_stratum(case) for case in unit}, {str(case.positive) for case in unit}
        turn = shuffled(map(str, range(count)), seed, *context, "tie", str(number))

        def load(index: int) -> tuple[int, ...]:
            return (
                sum(positives[index][each] for each in classes),  # noqa: B023
                sum(strata[index][each] for each in kinds),  # noqa: B023
                len(sets[index]),
                turn.index(str(index)),  # noqa: B023
            )

        best = min(range(count), key=load)
        sets[best] += [case.image for case in unit]
        positives[best].update(str(case.positive) for case in unit)
        strata[best].update(_stratum(case) for case in unit)
    return sets


def _chosen(cases: Sequence[StudyCase], wanted: int, seed: int, *context: str) -> list[StudyCase]:
    """Draw a number of cases in which the truth is as frequent as in all of them."""
    by_class: dict[str, list[StudyCase]] = defaultdict(list)
    for case in cases:
        by_class[str(case.positive)].append(case)
    exact = {name: wanted * len(each) / len(cases) for name, each in by_class.items()}
    counts = {name: int(number) for name, number in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name)):
        if sum(counts.values()) < wanted:
            counts[name] += 1
    chosen = []
    for name, each in sorted(by_class.items()):
        images = {case.image: case for case in each}
        chosen += [images[i] for i in shuffled(images, seed, *context, "choose")[: counts[name]]]
    return chosen


def _sides(readers: Sequence[Reader]) -> dict[str, int]:
    """Say which half each reader reads solo: by turns within a level, even over all."""
    sides: dict[str, int] = {}
    counts: Counter[tuple[str, int]] = Counter()
    for level in LEVELS:
        for reader in (each for each in readers if each.level == level):
            side = min((0, 1), key=lambda s: (counts[level, s], counts["", s], s))
            sides[reader.code] = side
            counts.update([(level, side), ("", side)])
    return sides


def _orders(protocol: Protocol, part: Part) -> dict[str, list[tuple[str, str]]]:
    """Order the blocks of one part for each reader.

    Rows of a Williams square are taken one after another, each time the one that keeps the design
    most even: starting arms within level and over all, then how often an organ comes solo first,
    then where in the order the arms lie.
    """
    organs = shuffled(part.organs, protocol.seed, "organs", part.name)
    conditions = list(itertools.product(organs, part.arms))
    if part.allocation == "crossed" and len(part.arms) > 1:
        rows = _whole_arms(organs, part.arms)  # one washout between the arms, not one per organ
    else:
        rows = [[conditions[index] for index in row] for row in williams(len(conditions))]
    sides = _sides(protocol.readers)
    taken: list[tuple[Reader, list[tuple[str, str]]]] = []
    for level in LEVELS:
        for reader in (each for each in protocol.readers if each.level == level):
            turn = shuffled(
                map(str, range(len(rows))), protocol.seed, "rows", part.name, reader.code
            )
            best = min(
                range(len(rows)),
                key=lambda index: (
                    *_unevenness([*taken, (reader, rows[index])], sides),
                    sum(rows[index] == row for _, row in taken),
                    turn.index(str(index)),
                ),
            )
            taken.append((reader, rows[best]))
    return {reader.code: row for reader, row in taken}


def _unevenness(
    taken: Sequence[tuple[Reader, Sequence[tuple[str, str]]]], sides: Mapping[str, int]
) -> tuple[int, ...]:
    starts: Counter[str] = Counter()
    first: Counter[str] = Counter()
    places = 0
    for reader, row in taken:
        sign = 1 if row[0][1] == SOLO else -1
        for key in (f"level {reader.level}", "all", f"half {sides[reader.code]}"):
            starts[key] += sign
        for organ in {organ for organ, _ in row}:
            arms = [arm for each, arm in row if each == organ]
            first[organ] += 1 if arms[0] == SOLO else -1
        places += sum((1 if arm == SOLO else -1) * place for place, (_, arm) in enumerate(row))
    return (
        sum(abs(n) for key, n in starts.items() if key.startswith("level")),
        abs(starts["all"]),
        sum(abs(n) for key, n in starts.items() if key.startswith("half")),
        sum(map(abs, first.values())),
        abs(places),
    )


def williams(count: int) -> list[list[int]]:
    """Build a Williams square: each condition in each place equally often, after each other once.

    Args:
        count: of conditions.

    Returns:
        `count` rows where it is even, twice as many where it is odd.

    >>> williams(4)
    [[0, 3, 1, 2], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 0, 1]]
    """
    row = [0]
    low, high = 1, count - 1
    while len(row) < count:
        row.append(high if len(row) % 2 else low)
        if len(row) % 2:
            low += 1
        else:
            high -= 1
    rows = [[(each + shift) % count for each in row] for shift in range(count)]
    if count % 2 and count > 1:
        rows += [each[::-1] for each in rows]
    return rows


def _whole_arms(organs: Sequence[str], arms: Sequence[str]) -> list[list[tuple[str, str]]]:
    squares = [[organs[index] for index in row] for row in williams(len(organs))]
    return [
        [(organ, arm) for arm in order for organ in row]
        for row in squares
        for order in itertools.permutations(arms)
    ]


def diagnostics(allocation: Allocation, cases: Iterable[StudyCase]) -> list[dict[str, Any]]:
    """Tabulate how even an allocation is, for the coordinator and the record.

    Args:
        allocation: to look at.
        cases: of the study.

    Returns:
        One row per block: reader, part, organ, arm, order, cases, positives, negatives, training,
        both_arms (cases that the reader also reads in the other arm), one_arm_only (cases that no
        reader reads in the other arm of this part).
    """
    truth = {(case.image, case.organ): case.positive for case in cases}
    arms: dict[tuple[str, str], set[str]] = defaultdict(set)
    everybody: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for block in allocation.blocks:
        for image in block.images:
            arms[block.reader, image].add(block.arm)
            everybody[block.part, block.organ, image].add(block.arm)
    part_arms: dict[str, set[str]] = defaultdict(set)
    for block in allocation.blocks:
        part_arms[block.part].add(block.arm)
    rows = []
    for block in allocation.blocks:
        positives = sum(truth[image, block.organ] is True for image in block.images)
        negatives = sum(truth[image, block.organ] is False for image in block.images)
        rows.append(
            {
                "reader": block.reader,
                "order": block.order,
                "part": block.part,
                "organ": block.organ,
                "arm": block.arm,
                "cases": len(block.images),
                "positives": positives,
                "negatives": negatives,
                "training": len(block.training),
                "both_arms": sum(
                    len(arms[block.reader, image]) == len(ARMS) for image in block.images
                ),
                "one_arm_only": sum(
                    len(part_arms[block.part]) == len(ARMS)
                    and len(everybody[block.part, block.organ, image]) < len(ARMS)
                    for image in block.images
                ),
            }
        )
    return rows
