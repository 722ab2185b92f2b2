"""The whole analysis of an export, section by section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pasta.errors import PastaError
from pasta.study.analysis.sections.behaviour import (
    learning_section,
    ratings_section,
    reliance_section,
)
from pasta.study.analysis.sections.checklists import checklist_section, readers_words, software
from pasta.study.analysis.sections.flow import flow, reads_that_count
from pasta.study.analysis.sections.quality import agreement_section, masks_section, reports_section
from pasta.study.analysis.sections.screening import areas_section, screening_section
from pasta.study.analysis.sections.times import times_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pasta.study.analysis.export import Export
    from pasta.study.analysis.tables import Section


class AnalysisError(PastaError, ValueError):
    """The study must not or cannot be analysed."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that a report shows.

    Attributes:
        title: of the study.
        facts: about study, lock and software, in order, for people.
        exploratory: whether the study was not locked.
        sections: in order.
    """

    title: str
    facts: dict[str, str]
    exploratory: bool
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One section's name and what makes it."""

    name: str
    make: Callable[[], Section | None]


def analyse(export: Export, *, exploratory: bool = False, seed: int = 0) -> Analysis:
    """Analyse a study.

    Args:
        export: as read.
        exploratory: allow a study that was never locked; the report says so on its first line.
        seed: of the bootstraps.

    Raises:
        AnalysisError: if the study was not locked or something was changed after it, and this is not
            exploratory; or nothing was read.
    """
    stages = list(plan(export, exploratory=exploratory, seed=seed))
    return assemble(export, [stage.make() for stage in stages])


def plan(export: Export, *, exploratory: bool, seed: int) -> Iterator[Stage]:
    """List the sections to make, so that a command can show how far it is.

    Raises:
        AnalysisError: as for `analyse`.
    """
    if not export.locked and not exploratory:
        msg = (
            f"study {export.study_id}: was not locked before it was read, so its results could have "
            "been steered. Lock a study first, or analyse it with --exploratory."
        )
        raise AnalysisError(msg)
    if export.problems and not exploratory:
        msg = (
            f"study {export.study_id}: {export.problems[0]} Mend it and export again, or analyse with "
            "--exploratory."
        )
        raise AnalysisError(msg)
    counted = reads_that_count(export)
    if counted.empty:
        msg = (
            f"study {export.study_id}: holds no complete read outside training; nothing to analyse."
        )
        raise AnalysisError(msg)
    return iter(
        (
            Stage("flow", lambda: flow(export)),
            Stage("screening", lambda: screening_section(export, counted, seed)),
            Stage("areas", lambda: areas_section(counted)),
            Stage("times", lambda: times_section(counted, seed)),
            Stage("masks", lambda: masks_section(export, counted)),
            Stage("reports", lambda: reports_section(export, counted)),
            Stage("agreement", lambda: agreement_section(export, counted, seed)),
            Stage("reliance", lambda: reliance_section(export, counted)),
            Stage("learning", lambda: learning_section(counted)),
            Stage("ratings", lambda: ratings_section(export)),
        )
    )


def assemble(export: Export, made: list[Section | None]) -> Analysis:
    """Put the sections together and add the checklists."""
    sections = [section for section in made if section is not None]
    sections.append(checklist_section(export, {s.name for s in sections}))
    study = export.protocol.get("study", {})
    counted = reads_that_count(export)
    facts = {
        "Study": export.study_id,
        "Locked before reading": "yes" if export.locked else "NO: exploratory",
        "Problems at export": " ".join(export.problems) or "none",
        "Readers": readers_words(counted),
        "Reads that count": f"{len(counted)} of {len(export.reads)} (training and unfinished "
        "reads are listed under Flow)",
        "Export (SHA-256)": export.sha256,
        "Software": software(),
    }
    return Analysis(
        str(study.get("title") or export.study_id),
        facts,
        not export.locked or bool(export.problems),
        tuple(sections),
    )
