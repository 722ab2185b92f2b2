"""The structured report: attributes, lesions, JSON document, letters, text. Standard library only."""

from pasta.report.attributes import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    LOCATIONS,
    PREDICTED,
    Attribute,
    attribute_named,
    head_options,
    letters_of,
    option_of,
    read_letters,
    values_of,
    write_letters,
)
from pasta.report.document import SCHEMA, SCHEMA_FILE, from_document, to_document
from pasta.report.findings import CaseFacts, Finding, LesionReport, Measurement, Report
from pasta.report.prose import full_text, one_line

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_NAMES",
    "LOCATIONS",
    "PREDICTED",
    "SCHEMA",
    "SCHEMA_FILE",
    "Attribute",
    "CaseFacts",
    "Finding",
    "LesionReport",
    "Measurement",
    "Report",
    "attribute_named",
    "from_document",
    "full_text",
    "head_options",
    "letters_of",
    "one_line",
    "option_of",
    "read_letters",
    "to_document",
    "values_of",
    "write_letters",
]
