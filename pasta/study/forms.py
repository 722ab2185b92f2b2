"""Takes typed values out of a TOML document, and says of wrong ones which line they stand on.

Standard library only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from pasta.study.findings import Finding, Lines, suggestion

if TYPE_CHECKING:
    import tomllib
    from collections.abc import Sequence

    from pasta.study.findings import Path_

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def syntax_finding(error: tomllib.TOMLDecodeError, text: str, name: str) -> Finding:
    """Make the finding of a text that is no TOML; `name` is that of its file."""
    found = re.search(r"\(at line (\d+), column \d+\)", str(error))
    line = int(found.group(1)) if found else text.count("\n") + 1
    reason = re.sub(r" \(at .*\)", "", str(error))
    return Finding(
        line, "", f"{reason}. Each line is `key = value`; texts stand in double quotes.", name
    )


class Form:
    """Takes typed values out of tables and notes what is wrong with them."""

    def __init__(self, lines: Lines, file: str) -> None:
        self._lines = lines
        self._file = file
        self.findings: list[Finding] = []

    def tell(self, path: Path_, text: str, *, item: object = None, warning: bool = False) -> None:
        """Note a mistake in the value at a path."""
        field = "".join(f"[{each + 1}]" if isinstance(each, int) else f".{each}" for each in path)
        self.findings.append(
            Finding(
                self._lines.of(path, item),
                field.removeprefix("."),
                text,
                self._file,
                "warning" if warning else "error",
            )
        )

    def known(self, path: Path_, table: dict[str, Any], keys: Sequence[str]) -> None:
        """Refuse keys that mean nothing: a misspelt one would be ignored in silence."""
        for key in table:
            if key not in keys:
                self.tell((*path, key), f"unknown key; {suggestion(key, keys)}")

    def value(
        self, path: Path_, table: dict[str, Any], key: str, kind: type, default: Any = ...
    ) -> Any:
        """Take a value of a type; `default` fills in for a wrong one too, so that checks go on."""
        empty: Any = {str: "", int: 0, bool: False, list: [], float: 0.0, dict: {}}[kind]
        if key not in table:
            if default is ...:
                self.tell(path, f'"{key}" is missing; add a line {key} = {_EXAMPLES[kind]}.')
                return empty
            return default
        value = table[key]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (kind in (int, float) and isinstance(value, bool)):
            self.tell(
                (*path, key),
                f"is {_shown(value)}, expected {_KINDS[kind]}, such as {_EXAMPLES[kind]}.",
            )
            return empty if default is ... else default
        return value

    def number(
        self, path: Path_, table: dict[str, Any], key: str, least: int, most: int, default: Any
    ) -> int:
        """Take a whole number in a range."""
        value = self.value(path, table, key, int, default)
        if value is not None and not least <= value <= most:
            self.tell((*path, key), f"is {value}, expected {least} to {most}.")
        return cast("int", value)

    def name(self, path: Path_, table: dict[str, Any], key: str) -> str:
        """Take a short name that is safe in files and logs."""
        value = self.value(path, table, key, str)
        if key in table and isinstance(table[key], str) and not _NAME.fullmatch(value):
            self.tell(
                (*path, key),
                f'"{value}" is not allowed: 1 to 32 letters, digits, dashes, underscores.',
            )
        return cast("str", value)

    def choice(
        self, path: Path_, table: dict[str, Any], key: str, words: Sequence[str], default: Any = ...
    ) -> str:
        """Take one of several words."""
        value = self.value(path, table, key, str, default)
        if isinstance(table.get(key), str) and value not in words:
            self.tell((*path, key), f'"{value}" is unknown; {suggestion(value, words)}')
        return cast("str", value)

    def words(
        self,
        path: Path_,
        table: dict[str, Any],
        key: str,
        words: Sequence[str] | None = None,
        default: Any = ...,
    ) -> tuple[str, ...]:
        """Take a list of texts, each once, each of those known."""
        found: list[str] = []
        for item in self.value(path, table, key, list, default):
            if not isinstance(item, str):
                self.tell(
                    (*path, key), f'holds {_shown(item)}, expected texts in "...".', item=item
                )
            elif words is not None and item not in words:
                text = f'"{item}" is unknown; {suggestion(item, words)}'
                self.tell((*path, key), text, item=item)
            elif item in found:
                self.tell((*path, key), f'"{item}" is there twice; keep one.', item=item)
            else:
                found.append(item)
        return tuple(found)

    def tables(
        self, path: Path_, table: dict[str, Any], key: str
    ) -> list[tuple[Path_, dict[str, Any]]]:
        """Take the entries of an array of tables."""
        header = f"[[{'.'.join(str(each) for each in (*path, key) if isinstance(each, str))}]]"
        value = table.get(key)
        if value is None or value == []:
            self.tell(path, f"has no {header}; add one.")
            return []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.tell((*path, key), f"write it as {header} on a line of its own.")
            return []
        return [((*path, key, index), each) for index, each in enumerate(value)]

    def unique(self, places: Sequence[tuple[Path_, str]], what: str) -> None:
        """Refuse names that are used twice, also where only the case of letters differs."""
        seen: dict[str, Path_] = {}
        for path, name in places:
            if not name:
                continue
            if name.lower() in seen:
                first = self._lines.of(seen[name.lower()])
                self.tell(path, f'{what} "{name}" is used already on line {first}; rename one.')
            seen.setdefault(name.lower(), path)


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
_EXAMPLES = {str: '"..."', int: "30", float: "30", bool: "true", list: '["..."]', dict: "{}"}


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'the text "{value[:40]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return f"{value}"
