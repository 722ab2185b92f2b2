"""Reporting checklists, filled as far as an export knows."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from pasta import __version__
from pasta.study.analysis import checklists
from pasta.study.analysis.sections.flow import reads_that_count
from pasta.study.analysis.tables import Section, Table

if TYPE_CHECKING:
    import pandas as pd

    from pasta.study.analysis.export import Export


def checklist_section(export: Export, done: set[str]) -> Section:
    """DECIDE-AI and CLAIM, filled as far as the export knows."""
    facts = _checklist_facts(export, done)
    return Section(
        "checklists",
        "Reporting checklists (skeleton)",
        [
            Table("decide_ai", "DECIDE-AI", checklists.filled(checklists.DECIDE_AI, facts)),
            Table("claim", "CLAIM (2020)", checklists.filled(checklists.CLAIM, facts)),
        ],
        notes=[
            "Items are abridged in our own words: compare with the published checklists before "
            "submission. What the export knows is filled in; the rest is for the authors."
        ],
    )


def _checklist_facts(export: Export, done: set[str]) -> dict[str, str]:
    counted = reads_that_count(export)
    reads, cases = export.reads, export.cases
    parts = export.protocol.get("parts", [])
    unfinished = int(((reads["training"] != 1) & (reads["status"] != "complete")).sum())
    tasks = ", ".join(sorted(counted["task"].unique()))
    models = (export.manifest.get("lock") or {}).get("weights", {})
    return {
        "lock": "Protocol and allocation were locked by SHA-256 before the first read; hashes are in "
        "the export's manifest."
        if export.locked
        else "The study was NOT locked: exploratory.",
        "cases": f"{cases['case'].nunique()} cases ({_positives_words(cases)}). Reasons for their "
        "number: see `pasta study power`.",
        "readers": readers_words(counted)
        + ". Recruitment and experience in years are to be added.",
        "training": f"{int((reads['training'] == 1).sum())} training reads came before the reads "
        "that count and are not analysed.",
        "models": f"PASTA-AID {__version__}"
        + (
            f"; models: {', '.join(sorted(models))} (SHA-256 in the manifest)."
            if models
            else "; model hashes are not in the manifest."
        ),
        "ai": "; ".join(f"{p.get('name')}: {', '.join(p.get('ai', [])) or 'none'}" for p in parts)
        + ". Computed before the reading, shown in the assisted arm only."
        if parts
        else "",
        "setting": "3D Slicer with the PASTA-AID extension in study mode; cases are handed out and "
        "timed by the server.",
        "arms": "Solo against AI-assisted reading; the reader decides in both arms.",
        "outcomes": f"Tasks: {tasks}. Recall, precision, F1, specificity, cases read, time a case, "
        "Dice, NSD and HD95, accuracy and macro-F1 of attributes, as far as the tasks have them.",
        "methods": "Named below every table of this report, with software versions at the top.",
        "sensitivity": "Other clocks, without flagged reads, without outliers: table "
        "times_sensitivity; tests with correction, exact, clustered: table screening_tests.",
        "incidents": f"Crashes and interruptions: {int((reads['interrupted'] == 1).sum())} reads; "
        f"suspends of the machine: {int(reads['suspends'].fillna(0).sum())}. Errors of the AI: "
        "section Reliance.",
        "retrospective": "Retrospective cases read in a simulated setting; no patient was affected.",
        "missing": f"{unfinished} reads were not completed; table flow counts them by reader and "
        "reason. No value is imputed.",
        "exposure": f"{int((counted['arm'] == 'assisted').sum())} assisted reads that count.",
        "main": "Sections Screening, Reading times, Masks, Report attributes.",
        "subgroups": "By organ and reader level throughout.",
        "changes": "None that the lock would have missed: protocol, allocation and weights are "
        "compared with it."
        if export.locked
        else "",
        "reliance": "Section Reliance: follow rates with the AI right and wrong, edits."
        if "reliance" in done
        else "",
        "learning": "Section Learning curves.",
        "agreement": "Section Agreement between readers." if "agreement" in done else "",
        "limits": f"{counted['reader'].nunique()} readers; caveats are printed in each section.",
        "data": "The export holds de-identified reads, attributes, events and masks.",
        "dictionary": "dictionary.csv of the export.",
        "deidentified": "Readers by pseudonym, cases by keyed code; the export holds no identifiers.",
        "allocation": "By case, from one seed; "
        + "; ".join(f"{p.get('name')}: {p.get('allocation', '')}" for p in parts)
        + ".",
        "software": software(),
    }


def _positives_words(cases: pd.DataFrame) -> str:
    known = cases.drop_duplicates(["case", "organ"])["positive"].dropna()
    return f"{int((known == 1).sum())} positive, {int((known == 0).sum())} negative"


def readers_words(reads: pd.DataFrame) -> str:
    """Say how many readers of which level there are."""
    levels = reads.drop_duplicates("reader").groupby("level").size()
    words = ", ".join(f"{count} {level}" for level, count in levels.items())
    return f"{int(levels.sum())} ({words})"


def software() -> str:
    """Name the versions that the numbers come from."""
    names = ("numpy", "scipy", "pandas", "statsmodels", "matplotlib")
    return ", ".join([f"PASTA-AID {__version__}", *(f"{n} {version(n)}" for n in names)])
