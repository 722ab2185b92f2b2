"""Plans: which lesion of which type goes into which template, as recipes that replay bit for bit.

A plan is a folder: `plan.json` says what was asked for, `recipes/*.jsonl` hold the answer in parts.
Every lesion depends on the seed and its number alone, so any number of workers, on any machine,
killed and started again, writes the same files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pasta.errors import OutputError, PastaError
from pasta.io.files import atomic_file
from pasta.labels import LESIONS, label_named
from pasta.workers import mapped
from training.synthesis.priors import draw_count
from training.synthesis.provenance import code_fingerprint
from training.synthesis.recipe import Canvas
from training.synthesis.templates import Template, TemplateStore

FORMAT = 1
PART = 30  # lesions in one file of recipes: two of each type
TEMPLATES_TRIED = 6
ALL_TYPES = tuple(lesion.name for lesion in LESIONS)


class PlanError(PastaError, ValueError):
    """A plan is missing, damaged, or is not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """What a plan was asked for; the recipes follow from it and from the code.

    Attributes:
        count: cases, spread evenly over the types.
        seed: of all of it.
        types: lesion types, in order.
        templates: template ids by lesion type.
        fingerprint: of the templates' content, so that a changed store is noticed.
        wish: attributes wished for in every lesion, such as {"surface": "Ill-defined margin"}.
        multiple: as many lesions in a case as such scans have; else one.
        code: fingerprint of the code that draws and measures.
    """

    count: int
    seed: int
    types: tuple[str, ...]
    templates: Mapping[str, tuple[str, ...]]
    fingerprint: str
    wish: Mapping[str, str] = field(default_factory=dict)
    multiple: bool = False
    code: str = ""

    @property
    def parts(self) -> int:
        """Files of recipes."""
        return -(-self.count // PART)

    def numbers(self, part: int) -> range:
        """Numbers of the lesions in one part."""
        return range(part * PART, min(self.count, (part + 1) * PART))

    def document(self) -> dict[str, Any]:
        """Write as JSON."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """One line of a plan.

    Attributes:
        number: in the plan.
        type: name of the lesion type.
        index: among those of its type.
        template: id; "" if no template would take it.
        recipes: documents of the recipes, one for each lesion; empty without template.
        reports: of each lesion, the eight attributes as measured, and its numbers.
        attempts: drawings until each was kept.
        relabelled: attributes of each that were wished for and not met: [wished, measured].
        problem: why there is no lesion.
        seconds: that planning took, of one core. Not part of the file: times differ.
    """

    number: int
    type: str
    index: int
    template: str = ""
    recipes: Sequence[Mapping[str, Any]] = ()
    reports: Sequence[Mapping[str, Any]] = ()
    attempts: Sequence[int] = ()
    relabelled: Sequence[Mapping[str, Any]] = ()
    problem: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """Write as one line of JSON."""
        document = asdict(self)
        del document["seconds"]
        return json.dumps(document, separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a run of `make_plan` did: lesions done now, found done, failed; seconds of cores."""

    made: int
    found: int
    failed: Mapping[str, int]
    core_seconds: float
    wall_seconds: float


def spec_for(
    store: TemplateStore,
    count: int,
    seed: int,
    types: Sequence[str] = ALL_TYPES,
    wish: Mapping[str, str] | None = None,
    *,
    multiple: bool = False,
) -> PlanSpec:
    """Ask for a plan.

    Args:
        store: templates to draw into.
        count: lesions, one or more.
        seed: of the plan.
        types: lesion types wanted.
        wish: attributes wished for in every lesion.
        multiple: draw the number of lesions of a case from the priors.

    Raises:
        LabelError: if a type is unknown.
        PlanError: if the count is not positive, or a type has no template; the message says why not.
    """
    if count < 1:
        msg = f"--count is {count}, expected one lesion or more."
        raise PlanError(msg)
    names = tuple(dict.fromkeys(label_named(name).name for name in types))
    lesions = [name for name in names if name in ALL_TYPES]
    if len(lesions) != len(names) or not names:
        msg = f"--types: expected lesion types, such as {ALL_TYPES[1]}; organs are none."
        raise PlanError(msg)
    templates = {name: tuple(store.ids_for(name)) for name in names}
    empty = [name for name, ids in templates.items() if not ids]
    if empty:
        msg = (
            f"{store.folder}: no template can take {', '.join(empty)} (organ absent or unusable, or "
            "the other contrast phase). Import more CT, render templates, or name --types."
        )
        raise PlanError(msg)
    fingerprint = fingerprint_of(store, templates)
    return PlanSpec(
        count, seed, names, templates, fingerprint, dict(wish or {}), multiple, code_fingerprint()
    )


def make_plan(
    folder: Path,
    store: TemplateStore,
    spec: PlanSpec,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> PlanSummary:
    """Write the recipes of a plan; go on where an earlier run stopped.

    Args:
        folder: of the plan; made if missing.
        store: of the templates; on a cluster every worker opens it by this path.
        spec: of `spec_for`.
        scheduler: address of a Dask scheduler, or None.
        workers: processes on this machine.
        progress: called with the number of lesions that were done.

    Raises:
        PlanError: if the folder holds another plan.
        OutputError: if it cannot be written; what is there already is complete.
        WorkerError: if the workers cannot be used.
    """
    started = time.monotonic()
    _begin(folder, spec)
    missing = [part for part in range(spec.parts) if not part_path(folder, part).exists()]
    found = spec.count - sum(len(spec.numbers(part)) for part in missing)
    progress(found)
    made, core_seconds = 0, 0.0
    failed: Counter[str] = Counter()
    tasks = [(store.folder.resolve(), spec, part) for part in missing]
    for part, lesions in mapped(plan_part, tasks, scheduler=scheduler, workers=workers):
        with atomic_file(part_path(folder, part)) as file:
            file.write("".join(lesion.line() + "\n" for lesion in lesions).encode())
        made += len(lesions)
        core_seconds += sum(lesion.seconds for lesion in lesions)
        failed.update(lesion.type for lesion in lesions if not lesion.recipes)
        progress(len(lesions))
    return PlanSummary(made, found, dict(failed), core_seconds, time.monotonic() - started)


def part_path(folder: Path, part: int) -> Path:
    """File of one part of a plan."""
    return folder / "recipes" / f"{part:05d}.jsonl"


def plan_part(task: tuple[Path, PlanSpec, int]) -> tuple[int, list[PlannedCase]]:
    """Plan the lesions of one part; runs in a worker."""
    folder, spec, part = task
    return part, [plan_case(folder, spec, number) for number in spec.numbers(part)]


def plan_case(folder: Path, spec: PlanSpec, number: int) -> PlannedCase:
    """Draw, render and measure the lesions of one case; try other templates if one takes none."""
    from training.synthesis.loop import accepted

    started = time.process_time()
    lesion_type = spec.types[number % len(spec.types)]
    index = number // len(spec.types)
    rng = np.random.default_rng([spec.seed, number])
    count = draw_count(lesion_type, rng) if spec.multiple else 1
    problem = ""
    for template_id in rng.permutation(np.array(spec.templates[lesion_type]))[:TEMPLATES_TRIED]:
        template = opened(folder, str(template_id))
        canvas = Canvas.of(template) if count > 1 else None
        kept = []
        try:
            for _ in range(count):
                kept.append(accepted(lesion_type, template, rng, spec.wish or None, canvas))
                if canvas is not None:
                    canvas.put(kept[-1].result)
        except PastaError as error:
            problem = str(error)
            if not kept:
                continue
        return PlannedCase(
            number,
            lesion_type,
            index,
            template.id,
            [json.loads(lesion.recipe.to_json()) for lesion in kept],
            [dict(lesion.report) for lesion in kept],
            [lesion.attempts for lesion in kept],
            [dict(lesion.relabelled) for lesion in kept],
            seconds=time.process_time() - started,
        )
    seconds = time.process_time() - started
    return PlannedCase(number, lesion_type, index, problem=problem, seconds=seconds)


@functools.lru_cache(maxsize=16)  # opening again means measuring distances again
def opened(folder: Path, template_id: str) -> Template:
    """Open a template once for a process."""
    return TemplateStore(folder).load(template_id)


def read_spec(folder: Path) -> PlanSpec:
    """Read what a plan was asked for.

    Raises:
        PlanError: if there is no plan in the folder, or it is damaged.
    """
    path = folder / "plan.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            msg = f"{path}: written by another version. Make the plan again in a new folder."
            raise PlanError(msg)
        document["types"] = tuple(document["types"])
        document["templates"] = {name: tuple(ids) for name, ids in document["templates"].items()}
        return PlanSpec(**document)
    except FileNotFoundError:
        msg = f"{folder}: holds no plan.json. Name the folder that `make` wrote."
        raise PlanError(msg) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, PlanError):
            raise
        msg = f"{path}: damaged ({type(error).__name__}). Make the plan again in a new folder."
        raise PlanError(msg) from error


def require_same_code(folder: Path, store: TemplateStore) -> PlanSpec:
    """See that a plan can be replayed: by the code and the templates that it was made with.

    Raises:
        PlanError: if the generator or the templates changed since; the images would not be those that
            the reports were measured from.
    """
    spec = read_spec(folder)
    if spec.code != code_fingerprint():
        msg = f"{folder}: made by another version of the generator. Make the plan again in a new folder."
        raise PlanError(msg)
    if spec.fingerprint != fingerprint_of(store, spec.templates):
        msg = (
            f"{folder}: the templates in {store.folder} changed since. Restore them, or plan again."
        )
        raise PlanError(msg)
    return spec


def fingerprint_of(store: TemplateStore, templates: Mapping[str, Sequence[str]]) -> str:
    """Hash the content of the templates that a plan may use."""
    used = sorted({name for ids in templates.values() for name in ids})
    content = [(name, store.document(name)["sha256"]) for name in used]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_plan(folder: Path, *, partly: bool = False) -> Iterator[PlannedCase]:
    """Read the lesions of a plan in their order.

    Args:
        folder: of the plan.
        partly: take an unfinished plan as far as it goes.

    Raises:
        PlanError: if parts are missing or damaged; the message names the file and line.
    """
    spec = read_spec(folder)
    for part in range(spec.parts):
        path = part_path(folder, part)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            if partly:
                continue
            msg = f"{folder}: the plan is not finished. Run the same `make` again; it goes on."
            raise PlanError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: not readable ({type(error).__name__}). Delete it and run `make` again."
            raise PlanError(msg) from error
        if len(lines) != len(spec.numbers(part)):
            msg = f"{path}: {len(lines)} of {len(spec.numbers(part))} lines. Delete it and run `make` again."
            raise PlanError(msg)
        for line_number, (number, line) in enumerate(
            zip(spec.numbers(part), lines, strict=True), start=1
        ):
            try:
                lesion = PlannedCase(**json.loads(line))
            except (ValueError, TypeError) as error:
                msg = f"{path}, line {line_number}: a corrupt recipe. Delete the file and run `make` again."
                raise PlanError(msg) from error
            if lesion.number != number:
                msg = f"{path}, line {line_number}: lesion {lesion.number}, expected {number}."
                raise PlanError(msg)
            yield lesion


def _begin(folder: Path, spec: PlanSpec) -> None:
    """Write `plan.json`, or see that the one there asks for the same."""
    if (folder / "plan.json").exists():
        present = read_spec(folder)
        if present == spec:
            return
        differing = [
            name
            for name in (
                "count",
                "seed",
                "types",
                "templates",
                "fingerprint",
                "wish",
                "multiple",
                "code",
            )
            if getattr(present, name) != getattr(spec, name)
        ]
        msg = (
            f"{folder}: holds a plan with another {', '.join(differing)}. Choose a new folder, or "
            "repeat the arguments of the first run to go on with it."
        )
        raise PlanError(msg)
    try:
        (folder / "recipes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot be made ({error.strerror}). Choose another folder."
        raise OutputError(msg) from error
    with atomic_file(folder / "plan.json") as file:
        file.write((json.dumps(spec.document(), indent=1) + "\n").encode())
