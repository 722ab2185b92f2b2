"""The eight report attributes, their options, and PASTA's letters for the five predicted ones.

Options: paper, Extended Data Table 1. Order and letters: the public PASTA code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pasta.errors import OutputError, ReportError
from pasta.labels import ORGANS


@dataclass(frozen=True, slots=True)
class Attribute:
    """One of the eight attributes of a lesion.

    Attributes:
        name: key in documents and in `ModelSpec.attributes`, such as "shape".
        title: name shown to people and used by the public PASTA code, such as "Shape".
        definition: as in Extended Data Table 1.
        options: the only values allowed; empty for the size, which is numbers.
    """

    name: str
    title: str
    definition: str
    options: tuple[str, ...]


ENHANCED, NON_CONTRAST = "Enhanced CT", "Non-contrast CT"
ROUND, IRREGULAR, WALL = "Round-like", "Irregular", "Wall thickening"
PUNCTATE = "Punctate, nodular"
HYPODENSE, ISODENSE, HYPERDENSE = "Hypodense", "Isodense", "Hyperdense"
HOMOGENEOUS, HETEROGENEOUS = "Homogeneous", "Heterogeneous"
WELL_DEFINED, ILL_DEFINED = "Well-defined margin", "Ill-defined margin"
NOT_CLOSE = "No close relationship with surrounding structures"
CLOSE = "Close relationship with adjacent structures"

# Extended Data Table 1 spells the organs of Supplementary Table 9 in its own way.
LOCATIONS: Mapping[str, str] = {
    organ.name: "Colorectal" if organ.name == "colorectum" else organ.title for organ in ORGANS
}

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "enhancement",
        "Enhancement status",
        "Intravenous contrast agent usage",
        (ENHANCED, NON_CONTRAST),
    ),
    Attribute(
        "location", "Location", "Organ-specific anatomical regions", tuple(LOCATIONS.values())
    ),
    Attribute("size", "Size", "Dimensions across axial, sagittal, and coronal planes", ()),
    Attribute(
        "shape",
        "Shape",
        "Morphological characteristics of the lesion",
        (ROUND, IRREGULAR, WALL, PUNCTATE),
    ),
    Attribute(
        "density",
        "Density",
        "Radiographic attenuation properties of the lesion",
        (HYPODENSE, ISODENSE, HYPERDENSE),
    ),
    Attribute(
        "heterogeneity",
        "Heterogeneity",
        "Uniformity of attenuation within the lesion",
        (HOMOGENEOUS, HETEROGENEOUS),
    ),
    Attribute(
        "surface",
        "Surface",
        "Features of the lesion's border and surface texture",
        (WELL_DEFINED, ILL_DEFINED),
    ),
    Attribute(
        "invasion",
        "Invasion",
        "Invasion of or proximity to adjacent structures",
        (NOT_CLOSE, CLOSE),
    ),
)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
ATTRIBUTE_NAMES = tuple(BY_NAME)

# In the order of the public code: of the letters and of the classification head.
PREDICTED = ("shape", "density", "heterogeneity", "surface", "invasion")

# The public code writes "adjacent" where Extended Data Table 1 writes "surrounding".
_OTHER_SPELLINGS = {
    "No close relationship with adjacent structures": NOT_CLOSE,
    "Close relationship with surrounding structures": CLOSE,
}


def attribute_named(name: str) -> Attribute:
    """Look an attribute up by its name ("shape") or title ("Shape").

    Raises:
        ReportError: if there is none; the message lists the eight.
    """
    for attribute in ATTRIBUTES:
        if name in (attribute.name, attribute.title):
            return attribute
    msg = f"unknown attribute {name!r}; known are {', '.join(ATTRIBUTE_NAMES)}."
    raise ReportError(msg)


def option_of(attribute: str, text: str) -> str:
    """Turn one spelling of an option into that of Extended Data Table 1.

    Raises:
        ReportError: if the attribute has no such option; the message lists its options.
    """
    options = attribute_named(attribute).options
    option = _OTHER_SPELLINGS.get(text, text)
    if option not in options:
        msg = f"{attribute}: {text!r} is not an option; use one of {'; '.join(options)}."
        raise ReportError(msg)
    return option


def head_options(*, published: bool = False) -> dict[str, tuple[str, ...]]:
    """List the options behind the outputs of an attribute head, for `ModelSpec.attributes`.

    Args:
        published: of the 14-way heads of the public scripts, whose fifth shape is the empty string.
    """
    options = {name: BY_NAME[name].options for name in PREDICTED}
    if published:
        options["shape"] = (*options["shape"], "")
    return options


def letters_of(values: Mapping[str, str | None]) -> str:
    """Write the five predicted attributes as PASTA's letters, such as "A,B,B,A,A".

    Raises:
        ReportError: if one of the five is missing or not an option.
    """
    letters = []
    for name in PREDICTED:
        value = values.get(name)
        if value is None:
            msg = f"{name}: no value, so there is no letter; complete the attribute first."
            raise ReportError(msg)
        letters.append(chr(ord("A") + BY_NAME[name].options.index(option_of(name, value))))
    return ",".join(letters)


def values_of(letters: str) -> dict[str, str]:
    """Read PASTA's letters: one line, order Shape, Density, Heterogeneity, Surface, Invasion.

    Raises:
        ReportError: if there are not five letters, or one names no option.
    """
    parts = [part.strip() for part in letters.strip().split(",")]
    if len(parts) != len(PREDICTED):
        msg = f"letters {letters.strip()!r}: expected five, such as A,B,B,A,A, found {len(parts)}."
        raise ReportError(msg)
    values = {}
    for name, part in zip(PREDICTED, parts, strict=True):
        options = BY_NAME[name].options
        last = chr(ord("A") + len(options) - 1)
        if len(part) != 1 or not "A" <= part <= last:
            msg = f"letters {letters.strip()!r}: {name} is {part!r}, expected A to {last}."
            raise ReportError(msg)
        values[name] = options[ord(part) - ord("A")]
    return values


def read_letters(path: Path) -> dict[str, str]:
    """Read a PASTA letter file (one line).

    Raises:
        ReportError: if the file cannot be read or does not hold five letters.
    """
    try:
        return values_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: not readable as text ({type(error).__name__}); write one line, A,B,B,A,A."
        raise ReportError(msg) from error
    except ReportError as error:
        msg = f"{path}: {error}"
        raise ReportError(msg) from None


def write_letters(values: Mapping[str, str | None], path: Path) -> None:
    """Write a PASTA letter file.

    Raises:
        ReportError: as for `letters_of`.
        OutputError: if the file cannot be written.
    """
    line = letters_of(values) + "\n"
    try:
        path.write_text(line, encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}). Check folder, space and permission."
        raise OutputError(msg) from error
