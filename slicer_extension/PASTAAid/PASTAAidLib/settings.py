"""Settings of the module: checked once, then never changed in place."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEVELS = ("", "junior", "senior")
ARMS = ("solo", "assisted")
_FORMER_ARMS = {"aided": "assisted"}  # as settings of earlier releases name it
# the server's rule for names begins with a letter or digit too
_READER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


class SettingsError(PastaError, ValueError):
    """A setting has a value that cannot be used; the message names the field and the mend.

    Attributes:
        name: of the setting.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the reader, or who set the workplace up, has chosen.

    Attributes:
        url: of the server.
        token: bearer token; empty where the server asks for none.
        reader: pseudonym, never a name; empty until one is chosen.
        level: "junior", "senior" or "" where it does not matter.
        tag: under which labels are saved.
        arm: "solo" (no AI is shown) or "assisted".
        clock_visible: whether the reader sees the time run.
        idle_seconds: without input before the time is flagged as idle.
        autosave_seconds: between two drafts, 5 to 30.
        run_ai_on_open: whether the AI starts with the case.
        strategy: of the server, that chooses the next case.
        folder: of drafts, logs and cached CTs.
        cache_gb: that cached CTs may take.
    """

    url: str = "http://127.0.0.1:8000"
    token: str = field(default="", repr=False)  # never in a log
    reader: str = ""
    level: str = ""
    tag: str = "final"
    arm: str = "assisted"
    clock_visible: bool = True
    idle_seconds: float = 30.0
    autosave_seconds: float = 20.0
    run_ai_on_open: bool = True
    strategy: str = "first"
    folder: Path
    cache_gb: float = 4.0

    @classmethod
    def from_values(cls, values: Mapping[str, object], folder: Path) -> Settings:
        """Check values as a settings file holds them: texts and numbers; None takes the default.

        Args:
            values: by name; names that are none of ours are left alone.
            folder: of drafts, logs and cached CTs.

        Raises:
            SettingsError: for the first one that cannot be used; it names the field and the mend.
        """
        given = {name: value for name, value in values.items() if value is not None}
        texts = {name: _text(name, given[name]) for name in _TEXTS if name in given}
        checks = {"url": _url, "reader": _reader, "tag": _name, "strategy": _name}
        for name, check in checks.items():
            if name in texts:
                texts[name] = check(name, texts[name])
        if texts.get("arm") in _FORMER_ARMS:
            texts["arm"] = _FORMER_ARMS[texts["arm"]]
        for name, choices in (("level", LEVELS), ("arm", ARMS)):
            if name in texts:
                texts[name] = _choice(name, texts[name], choices)
        flags = {name: _flag(name, given[name]) for name in _BOOLEANS if name in given}
        numbers = {
            name: _number(name, given[name], *bounds)
            for name, bounds in _NUMBERS.items()
            if name in given
        }
        return cls(folder=folder, **texts, **flags, **numbers)  # type: ignore[arg-type]

    @property
    def workplace(self) -> str:
        """A short name for this server and reader: drafts and cached CTs of others stay apart."""
        return hashlib.sha256(f"{self.url} {self.reader}".encode()).hexdigest()[:12]


_TEXTS = ("url", "token", "reader", "level", "tag", "arm", "strategy")
_BOOLEANS = ("clock_visible", "run_ai_on_open")
_NUMBERS = {
    "idle_seconds": (1.0, 3600.0),
    "autosave_seconds": (5.0, 30.0),
    "cache_gb": (0.1, 1000.0),
}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise SettingsError(name, f"is a {type(value).__name__}; give a text.")
    text = value.strip()
    if not text.isprintable():
        raise SettingsError(name, "holds a line break or a control character; type it again.")
    return text


def _url(name: str, text: str) -> str:
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise SettingsError(
            name, f"{text[:80]!r} has a bad port; write http://host:8000."
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SettingsError(name, f"{text[:80]!r} is no web address; write http://host:8000.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(name, "holds more than an address; a token has a field of its own.")
    return text.rstrip("/")


def _reader(name: str, text: str) -> str:
    if text and not _READER.fullmatch(text):
        raise SettingsError(
            name,
            f"{text[:40]!r} is not allowed; take a pseudonym such as R1: up to 32 letters, digits, "
            "dashes or underscores, a letter or digit first.",
        )
    return text


def _name(name: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise SettingsError(
            name, f"{text[:40]!r} is not allowed; use letters, digits, dot, dash and underscore."
        )
    return text


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        allowed = ", ".join(choice or "(empty)" for choice in choices)
        raise SettingsError(name, f"is {text[:40]!r}; choose one of {allowed}.")
    return text


def _flag(name: str, value: object) -> bool:
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise SettingsError(name, f"is {str(value)[:40]!r}; choose true or false.")
    return flag


def _number(name: str, value: object, least: float, most: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most:  # false for NaN
        raise SettingsError(
            name, f"is {str(value)[:40]!r}; give a number from {least:g} to {most:g}."
        )
    return number
