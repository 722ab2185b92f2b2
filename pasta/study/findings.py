"""What is wrong in a file that a coordinator wrote, and on which line. Standard library only."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path_ = tuple[str | int, ...]
_LONGEST_STATEMENT = 2_000  # lines


class StudyError(PastaError, ValueError):
    """A study folder is incomplete, or was changed after its lock."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake, or one thing to look at twice.

    Attributes:
        line: of the file, from 1; 0 where no line is to blame.
        field: such as "parts.screening.organs".
        text: a sentence: what was found and how to mend it.
        file: name of the file.
        severity: an error keeps the study from being allocated, a warning does not.
    """

    line: int
    field: str
    text: str
    file: str = "protocol.toml"
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """Show it as compilers do, so that editors can jump to it."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        mark = "warning: " if self.severity == "warning" else ""
        return (
            f"{place}: {mark}{self.field}: {self.text}" if self.field else f"{place}: {self.text}"
        )


class ProtocolError(StudyError):
    """A protocol or its case list has mistakes.

    Attributes:
        findings: all of them.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


def suggestion(word: object, known: Iterable[str]) -> str:
    """Name the known word that was meant, or all known words.

    Args:
        word: that was found.
        known: words that would do.

    Returns:
        `did you mean "organs"?` or `use one of a, b, c.`
    """
    words = list(known)
    close = difflib.get_close_matches(str(word).lower(), words, 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else f"use one of {', '.join(words)}."


class Lines:
    """Finds the lines that keys of a TOML text stand on; `tomllib` does not tell them.

    Args:
        text: that `tomllib` reads without an error.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Path_, int] = {}
        self._texts: dict[Path_, list[str]] = {}
        self._counts: dict[Path_, int] = {}
        self._read(text.splitlines())

    def of(self, path: Path_, item: object = None) -> int:
        """Find the line of a key, else of the table it should be in.

        Args:
            path: such as ("parts", 0, "organs").
            item: of the array there, to find its own line.
        """
        while path and path not in self._lines:
            path, item = path[:-1], None
        line = self._lines.get(path, 0)
        if item is not None:
            for offset, text in enumerate(self._texts.get(path, ())):
                if str(item) in text:
                    return line + offset
        return line

    def _read(self, lines: list[str]) -> None:
        table: Path_ = ()
        number = 0
        while number < len(lines):
            line = lines[number].strip()
            if not line or line.startswith("#"):
                number += 1
                continue
            if line.startswith("["):
                table = self._table(line)
                self._lines.setdefault(table, number + 1)
                if line.startswith("[["):
                    self._lines.setdefault(table[:-1], number + 1)
                number += 1
                continue
            length, statement = _statement(lines[number:])
            for path in _paths(statement):
                self._lines.setdefault(table + path, number + 1)
                self._texts[table + path] = lines[number : number + length]
            number += length

    def _table(self, header: str) -> Path_:
        """Make the path of a table header: arrays of tables count their entries."""
        names = _keys(re.sub(r"\]+\s*(#.*)?$", "", header).lstrip("[").strip())
        array = header.startswith("[[")
        path: Path_ = ()
        for index, name in enumerate(names):
            path = (*path, name)
            last = index == len(names) - 1
            if last and array:
                count = self._counts.get(path, 0)
                self._counts[path] = count + 1
                path = (*path, count)
            elif path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path


def _statement(lines: list[str]) -> tuple[int, dict[str, Any]]:
    """Take lines until they are a whole `key = value`."""
    for length in range(1, min(len(lines), _LONGEST_STATEMENT) + 1):
        try:
            return length, tomllib.loads("\n".join(lines[:length]))
        except tomllib.TOMLDecodeError:
            continue
    return 1, {}


def _paths(statement: dict[str, Any], path: Path_ = ()) -> list[Path_]:
    found: list[Path_] = []
    for key, value in statement.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += _paths(value, (*path, key))
    return found


def _keys(dotted: str) -> list[str]:
    """Part a dotted key into its names."""
    try:
        statement: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return [dotted]
    names = []
    while isinstance(statement, dict):
        name, statement = next(iter(statement.items()))
        names.append(name)
    return names
