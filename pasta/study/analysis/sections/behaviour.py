"""Reliance on the AI, learning curves, ratings of synthetic cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasta.study.analysis import behaviour, figures, ratings
from pasta.study.analysis.sections.flow import of_counted, timed_reads
from pasta.study.analysis.tables import Picture, Section, Table

if TYPE_CHECKING:
    import pandas as pd

    from pasta.study.analysis.export import Export


def reliance_section(export: Export, counted: pd.DataFrame) -> Section | None:
    """How far readers follow the AI."""
    section = Section("reliance", "Reliance on the AI (automation bias)")
    screened = counted[(counted["task"] == "screen") & counted["positive"].notna()]
    decided = behaviour.decisions_with_ai(screened)
    if len(decided):
        section.tables.append(
            Table(
                "reliance_screening",
                "Screening decisions",
                decided,
                (
                    "Following a wrong AI is automation bias. Errors on the cases where the AI was "
                    "wrong, assisted beside solo, tell what it costs.",
                ),
            )
        )
        follow = decided[decided["measure"].str.startswith("AI followed")]
        for level in sorted(follow["level"].unique()):
            section.pictures.append(
                Picture(
                    f"reliance_{level}",
                    f"How often the AI was followed, {level} readers",
                    figures.share_bars(
                        follow[follow["level"] == level], "measure", "AI followed (%)"
                    ),
                    "Share of assisted decisions equal to the AI's, with Wilson's 95% CI.",
                )
            )
        switched, why = behaviour.switches(export.events, screened)
        if why:
            section.not_done.append(why)
        else:
            section.tables.append(Table("reliance_switches", "Decisions changed", switched))
    drafts = behaviour.attributes_with_ai(of_counted(export.attributes, counted))
    if len(drafts):
        section.tables.append(Table("reliance_attributes", "Report drafts", drafts))
    edits = behaviour.mask_edits(of_counted(export.masks, counted), counted)
    if len(edits):
        section.tables.append(Table("reliance_masks", "Edits of masks", edits))
    if not section.tables:
        return None
    return section


def learning_section(counted: pd.DataFrame) -> Section | None:
    """Time and errors by position in the list."""
    timed = timed_reads(counted)
    if timed.empty:
        return None
    section = Section("learning", "Learning curves")
    section.tables.append(
        Table(
            "learning",
            "Change of time with practice",
            behaviour.learning(timed),
            ("Least squares of log time on log2 of the position, HC3; negative: faster.",),
        )
    )
    screened = timed[
        (timed["task"] == "screen") & timed["decision"].notna() & timed["positive"].notna()
    ]
    if len(screened):
        section.tables.append(
            Table(
                "learning_errors",
                "Screening errors, first and second half",
                behaviour.halves(screened),
            )
        )
    for part, group in timed.groupby("part", sort=True):
        section.pictures.append(
            Picture(
                f"learning_{part}",
                f"Time by position: {part}",
                figures.learning_curves(group),
                "Points: reads; lines: lowess of log time. Log axis.",
            )
        )
    section.notes.append(
        "If all readers read one arm first, practice and fatigue cannot be told from the arm; the "
        "order of the blocks is in the protocol."
    )
    return section


def ratings_section(export: Export) -> Section | None:
    """Realism and consistency of synthetic cases."""
    section = Section("ratings", "Ratings of synthetic cases")
    real = ratings.ratings(export, "realism")
    if len(real):
        table = ratings.realism(real)
        section.tables += [
            Table(
                "realism",
                "Realism by lesion and source",
                table,
                ("Mean over cases of the mean over readers; t interval over cases.",),
            ),
            Table(
                "realism_apart",
                "Real against synthetic",
                ratings.told_apart(real),
                ("0.5: readers cannot tell them apart. p of the chance: t over readers.",),
            ),
        ]
        section.pictures.append(
            Picture(
                "realism",
                "Realism",
                figures.rating_bars(table[table["measure"] == "mean rating"], "Realism (1 to 5)"),
                "Mean realism of real and synthetic cases with 95% CI over cases.",
            )
        )
    consistent = ratings.ratings(export, "consistency")
    if len(consistent):
        table = ratings.consistency(consistent)
        section.tables.append(
            Table(
                "consistency",
                "Agreement of image and text, by lesion and attribute",
                table,
                ("Mean over cases of the mean over readers; t interval over cases.",),
            )
        )
        chosen = table[(table["measure"] == "mean rating") & (table["question"] == "all")]
        section.pictures.append(
            Picture(
                "consistency",
                "Agreement of image and text",
                figures.rating_bars(chosen.drop(columns="question"), "Consistency (1 to 5)"),
                "Mean over all attributes with 95% CI over cases.",
            )
        )
    return section if section.tables else None
