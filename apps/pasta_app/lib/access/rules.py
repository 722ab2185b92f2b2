"""The allow-list: which role may use which route. What is not named here is not there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib.access.roles import Role

_NAME = r"[A-Za-z0-9._@-]+"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the list.

    Attributes:
        methods: of HTTP; HEAD counts as GET.
        path: pattern of all of it.
        role: the lowest that may.
        switch: setting that must be on; "" for none.
    """

    methods: frozenset[str]
    path: re.Pattern[str]
    role: Role
    switch: str = ""


def _rule(methods: str, path: str, role: Role, switch: str = "") -> Rule:
    return Rule(frozenset(methods.split()), re.compile(path), role, switch)


RULES = (
    # reading
    _rule("GET", r"/|/docs|/openapi\.json|/info/?", Role.READER),
    _rule("GET", r"/pasta/health", Role.READER),
    _rule("GET", rf"/pasta/(images|jobs)(/{_NAME})?", Role.READER),
    _rule("GET", r"/pasta/(review|batches)", Role.READER),
    _rule("DELETE", rf"/pasta/jobs/{_NAME}", Role.READER),
    _rule("POST DELETE", rf"/pasta/images/{_NAME}/reading", Role.READER),
    _rule("POST", r"/infer/[^/]+", Role.READER),
    _rule("POST", r"/activelearning/[^/]+", Role.READER),
    _rule("GET", r"/auth/?", Role.READER),
    _rule("GET", r"/datastore/?", Role.READER),
    _rule("GET", r"/datastore/(image|label)(/info)?", Role.READER),
    _rule("PUT", r"/datastore/((image|label)(/info)?)?", Role.READER),
    _rule("PUT", r"/session/?", Role.READER),
    _rule("GET DELETE", r"/session/[^/]+", Role.READER),
    _rule("GET", r"/(train|batch/infer|scoring)/?", Role.READER),
    # the study: its routes look at seats and cookies themselves
    _rule("GET POST", r"/pasta/study(/.*)?", Role.READER),
    _rule("GET POST", r"/pasta/coordinator(/.*)?", Role.READER),
    # coordinating
    _rule("GET", r"/datastore/dataset", Role.COORDINATOR),
    _rule("DELETE", r"/datastore/label", Role.COORDINATOR),
    # running the server
    _rule("DELETE", r"/datastore/(image)?", Role.ADMIN),
    _rule("POST", r"/(train|batch/infer|scoring)/([^/]+)?", Role.ADMIN),
    _rule("DELETE", r"/(train|batch/infer|scoring)/?", Role.ADMIN),
    _rule("GET", r"/logs/?", Role.ADMIN),
    # off unless switched on
    _rule("GET POST PUT DELETE", r"/proxy/dicom/.*", Role.ADMIN, "pacs_proxy"),
    _rule("GET PUT DELETE", r"/model/[^/]+", Role.ADMIN, "model_upload"),
    _rule("POST", r"/reload", Role.ADMIN, "reload"),
)
# as %2f they came through here as one part of a path, and became another one behind
_TRAVERSAL = re.compile(r"(^|/)\.{1,2}(/|$)|//|[\\%\x00-\x1f\x7f]")


def rule_for(method: str, path: str, switches: frozenset[str]) -> Rule | None:
    """Find the rule for a request.

    Args:
        method: of HTTP.
        path: decoded, without the prefix of all routes.
        switches: those that are on.

    Returns:
        The rule; None for what is off or unknown, or climbs out of its place.
    """
    if _TRAVERSAL.search(path):
        return None
    wanted = "GET" if method == "HEAD" else method
    for rule in RULES:
        if wanted in rule.methods and rule.path.fullmatch(path):
            return rule if not rule.switch or rule.switch in switches else None
    return None
