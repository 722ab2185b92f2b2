"""DECIDE-AI and CLAIM as skeletons: what the export knows is filled in, the rest is for the authors.

Items are abridged in our own words; DECIDE-AI: Vasey et al., Nat Med 28 (2022) 924-933; CLAIM: Mongan
et al., Radiol Artif Intell 2 (2020) e200029.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

TO_WRITE = "To be written by the authors."

# number, what is asked, key of the fact that answers it ("" for none)
DECIDE_AI: tuple[tuple[str, str, str], ...] = (
    ("1", "Title: early evaluation of a decision support system based on AI, and its problem", ""),
    ("I", "Abstract: structured summary", ""),
    ("2a", "Targeted condition, current practice, intended patients", ""),
    ("2b", "Intended users, place in the care pathway, possible impact", ""),
    ("II", "Objectives", ""),
    ("III", "Governance: protocol, registration, ethics approval", "lock"),
    ("3a", "Patients: recruitment, criteria, how their number was decided", "cases"),
    ("3b", "Users: recruitment, criteria, how their number was decided", "readers"),
    ("3c", "Steps to familiarise users with the system, training", "training"),
    ("4a", "AI system: version, algorithm, training population, earlier performance", "models"),
    ("4b", "Input data of the AI system", ""),
    ("4c", "Output of the AI system and how it was shown to users", "ai"),
    ("5a", "Setting in which the system was evaluated", "setting"),
    ("5b", "Workflow, timing of use, how and by whom the final decision was made", "arms"),
    ("IV", "Primary and secondary outcomes", "outcomes"),
    ("6a", "How significant errors and malfunctions were defined and found", "incidents"),
    ("6b", "How risks to patients were found, analysed and kept small", "retrospective"),
    ("7", "Human factors: tools, methods, use cases, users", ""),
    ("V", "Analysis: statistical methods for every outcome", "methods"),
    ("8", "Ethics: methods for goals such as fairness", ""),
    ("VI", "Patient involvement", ""),
    ("9a", "Patients: baseline characteristics, missing data", "missing"),
    ("9b", "Users: baseline characteristics", "readers"),
    ("10a", "Exposure to the AI system, adherence to the intended use", "exposure"),
    ("10b", "Changes to workflow or pathway caused by the AI system", ""),
    ("VII", "Main results, with those of the comparison group", "main"),
    ("VIII", "Subgroup analyses", "subgroups"),
    ("11", "Changes to the AI system or its platform during the study", "changes"),
    ("12", "Agreement of users with the AI system, deviations from it", "reliance"),
    ("13a", "Significant errors and malfunctions: rate, cause, severity", "incidents"),
    ("13b", "Risks to patients or harm that was seen", "retrospective"),
    ("14a", "Usability, by a recognised standard", ""),
    ("14b", "Learning curves", "learning"),
    ("15", "Discussion: support for the intended use", ""),
    ("16", "Discussion: what the results say about safety", ""),
    ("IX", "Strengths and limitations", "limits"),
    ("17", "Availability of data and code", "data"),
    ("X", "Conflicts of interest", ""),
)
CLAIM: tuple[tuple[str, str, str], ...] = (
    ("1", "Title or abstract: AI methodology, with its category", ""),
    ("2", "Abstract: design, methods, results, conclusions", ""),
    ("3", "Background: intended use and clinical role", ""),
    ("4", "Objectives and hypotheses", ""),
    ("5", "Prospective or retrospective", "retrospective"),
    ("6", "Study goal", "arms"),
    ("7", "Data sources", ""),
    ("8", "Eligibility criteria", ""),
    ("9", "Preprocessing", ""),
    ("10", "Selection of data subsets", "cases"),
    ("11", "Definitions of data elements", "dictionary"),
    ("12", "De-identification", "deidentified"),
    ("13", "How missing data were handled", "missing"),
    ("14", "Definition of the reference standard", ""),
    ("15", "Rationale for the reference standard", ""),
    ("16", "Source of annotations, qualification of annotators", ""),
    ("17", "Annotation tools", "setting"),
    ("18", "Inter- and intra-rater variability", "agreement"),
    ("19", "Sample size and how it was determined", "cases"),
    ("20", "Assignment of data to partitions (here: to readers and arms)", "allocation"),
    ("21", "Level at which partitions are disjoint", "allocation"),
    ("22", "Model: architecture", ""),
    ("23", "Software libraries, frameworks, packages", "software"),
    ("24", "Initialisation of model parameters", ""),
    ("25", "Training approach", ""),
    ("26", "How the final model was selected", ""),
    ("27", "Ensembling", ""),
    ("28", "Metrics of performance", "outcomes"),
    ("29", "Statistical measures of significance and uncertainty", "methods"),
    ("30", "Robustness or sensitivity analysis", "sensitivity"),
    ("31", "Explainability", ""),
    ("32", "Validation on external data", ""),
    ("33", "Flow of participants or cases", "missing"),
    ("34", "Demographic and clinical characteristics", ""),
    ("35", "Performance on all data partitions", ""),
    ("36", "Estimates of diagnostic accuracy and their precision", "main"),
    ("37", "Failure analysis of wrong results", "reliance"),
    ("38", "Limitations, bias, uncertainty, generalisability", "limits"),
    ("39", "Implications for practice, intended use", ""),
    ("40", "Registration", ""),
    ("41", "Where the full protocol can be had", "lock"),
    ("42", "Funding", ""),
)


def filled(items: tuple[tuple[str, str, str], ...], facts: Mapping[str, str]) -> pd.DataFrame:
    """Fill a checklist: columns item, asks_for, from_the_export, status."""
    return pd.DataFrame(
        [
            {
                "item": number,
                "asks_for": asks,
                "from_the_export": facts.get(key, ""),
                "status": "check and extend" if facts.get(key) else TO_WRITE,
            }
            for number, asks, key in items
        ]
    )
