"""Licence terms, read out of a licence's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non-?\s?commercial", re.IGNORECASE)
_NO_DERIVATIVES = re.compile(r"(?<![a-z])nd(?![a-z])|no-?\s?deriv", re.IGNORECASE)
_SHARE_ALIKE = re.compile(r"(?<![a-z])sa(?![a-z])|share-?\s?alike", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms data may be used.

    Attributes:
        name: such as "CC BY-NC-SA 4.0"; empty where nobody said.
    """

    name: str = ""

    @property
    def non_commercial(self) -> bool:
        """True where commercial use is excluded."""
        return bool(_NON_COMMERCIAL.search(self.name))

    @property
    def no_derivatives(self) -> bool:
        """True where changed copies may not be passed on."""
        return bool(_NO_DERIVATIVES.search(self.name))

    @property
    def share_alike(self) -> bool:
        """True where what is derived must keep the licence."""
        return bool(_SHARE_ALIKE.search(self.name))

    def refusal(self) -> str:
        """Say why weights trained on the data are not to be shipped; empty where they may be."""
        if not self.name:
            return "its licence is unknown"
        terms = [
            term
            for term, there in (
                ("non-commercial", self.non_commercial),
                ("no derivatives", self.no_derivatives),
            )
            if there
        ]
        return f"its licence, {self.name}, says {' and '.join(terms)}" if terms else ""
