"""Roles, and who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PERSON, REQUEST = "pasta.person", "pasta.request"  # keys of an ASGI scope


class Role(IntEnum):
    """What somebody may do; a higher role may all that a lower one may."""

    READER = 1
    COORDINATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As in files and logs."""
        return self.name.lower()


ROLES = {role.word: role for role in Role}


@dataclass(frozen=True, slots=True)
class Person:
    """Who a request comes from.

    Attributes:
        name: pseudonym, as in the audit log.
        role: what they may do.
        study: holds a seat in a reader study, and may use its routes only.
    """

    name: str
    role: Role
    study: bool = False
