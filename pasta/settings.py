"""Settings of the server: one TOML file, and the environment, which goes before it.

`server_config/pasta.example.toml` shows every key with its default. Secrets are in neither: tokens
have a file of their own.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pasta.errors import PastaError
from pasta.study.findings import Finding, Lines, suggestion
from pasta.study.forms import Form, syntax_finding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONFIG_VARIABLE = "PASTA_CONFIG"
ADMIN_VARIABLE = "PASTA_ADMIN_TOKEN"
PACS_PASSWORD, PACS_TOKEN = "PASTA_PACS_PASSWORD", "PASTA_PACS_TOKEN"
LOOPBACK = "127.0.0.1"
# no "none" and no HS...: with those whoever has the public key could sign
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
SWITCHES = ("pacs_proxy", "model_upload", "reload", "bundle_path", "archives")
_SHORTEST_TOKEN = 12
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class SettingsError(PastaError, ValueError):
    """Settings have mistakes.

    Attributes:
        findings: all of them, each with its line.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


@dataclass(frozen=True, slots=True)
class Oidc:
    """Who signs tokens of people, and what their roles are called there.

    Attributes:
        issuer: as the claim `iss` has it, such as a realm of Keycloak.
        audience: that the claim `aud` must name.
        keys: address or file of the JSON Web Key Set.
        algorithms: of signatures; nothing else is taken.
        roles_claim: where the roles are, with dots: "realm_access.roles".
        reader: role there that makes a reader here.
        coordinator: role there that makes a coordinator here.
        admin: role there that makes an admin here.
    """

    issuer: str
    audience: str
    keys: str
    algorithms: tuple[str, ...]
    roles_claim: str
    reader: str
    coordinator: str
    admin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the server.

    Attributes:
        models: folder of model folders; None takes PASTA's default.
        device: that runs the networks where a request names none.
        queue: requests that may wait for the device; one more is answered 429.
        max_upload_bytes: largest request body.
        origins: web origins that may call the server from a browser.
        study: folder of a reader study, or of several; None for a server without.
        admin_token: of the coordinators; "" makes one up and keeps it in that folder.
        pacs_user: for a PACS as studies; "" for none.
        pacs_password: of that user; from the environment only.
        pacs_token: bearer token for the PACS, instead of both; from the environment only.
        pacs_authorities: file of certificate authorities for HTTPS; None for the usual ones.
        pacs_cache: folder for its series and our labels; None for one in the user's data home.
        host: address that is listened on.
        port: of it.
        network: whether other machines may be served at all.
        tls_certificate: PEM file; None where a proxy does TLS, or nobody.
        tls_key: PEM file that belongs to it.
        body_seconds: longest silence of a client that is sending.
        requests_per_minute: of one token.
        tokens: file of tokens; None for `.pasta/tokens` in the folder of images.
        audit: log of who did what; None for `.pasta/audit.jsonl` there.
        oidc: tokens of an identity provider; None takes none.
        switches: of `SWITCHES`, those that are on.
    """

    models: Path | None = None
    device: str = "auto"
    queue: int = 8
    max_upload_bytes: int = 2048 * 1024 * 1024
    origins: tuple[str, ...] = ()
    study: Path | None = None
    admin_token: str = field(default="", repr=False)
    pacs_user: str = ""
    pacs_password: str = field(default="", repr=False)
    pacs_token: str = field(default="", repr=False)
    pacs_authorities: Path | None = None
    pacs_cache: Path | None = None
    host: str = LOOPBACK
    port: int = 8000
    network: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    body_seconds: int = 60
    requests_per_minute: int = 6000
    tokens: Path | None = None
    audit: Path | None = None
    oidc: Oidc | None = None
    switches: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the file that PASTA_CONFIG names, if it does, and the other variables over it.

        Args:
            environment: None takes that of the process.

        Raises:
            SettingsError: with every mistake and its line.
        """
        environment = os.environ if environment is None else environment
        path = environment.get(CONFIG_VARIABLE)
        return read_settings(Path(path) if path else None, environment)


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of the file."""

    section: str
    name: str
    variable: str
    kind: type
    default: Any
    wrong: Callable[[Any], str] = lambda _value: ""


def _within(least: int, most: int) -> Callable[[Any], str]:
    def wrong(value: int) -> str:
        return "" if least <= value <= most else f"is {value}, expected {least} to {most}."

    return wrong


def _wrong_host(value: str) -> str:
    bad = not value or any(not (c.isalnum() or c in ".:-") for c in value)
    return f'"{value[:40]}" is no address; write 127.0.0.1, or 0.0.0.0 for all.' if bad else ""


def _wrong_origins(value: Sequence[str]) -> str:
    for origin in value:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
            return f'"{origin[:60]}" is no web origin; write it as "https://viewer.example".'
    return ""


def _wrong_algorithms(value: Sequence[str]) -> str:
    if not value:
        return 'is empty; name at least one, such as "RS256".'
    unknown = next((each for each in value if each not in ALGORITHMS), None)
    return f'"{unknown}" is not allowed; {suggestion(unknown, ALGORITHMS)}' if unknown else ""


def _wrong_url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        return f'"{value[:60]}" is no web address; write it as "https://id.example/realms/x".'
    return ""


_KEYS = (
    _Key("server", "host", "PASTA_HOST", str, LOOPBACK, _wrong_host),
    _Key("server", "port", "PASTA_PORT", int, 8000, _within(1, 65535)),
    _Key("server", "network", "PASTA_NETWORK", bool, False),
    _Key("server", "tls_certificate", "PASTA_TLS_CERTIFICATE", str, ""),
    _Key("server", "tls_key", "PASTA_TLS_KEY", str, ""),
    _Key("server", "origins", "PASTA_CORS_ORIGINS", list, (), _wrong_origins),
    _Key("server", "max_upload_mb", "PASTA_MAX_UPLOAD_MB", int, 2048, _within(1, 1 << 20)),
    _Key("server", "body_seconds", "PASTA_BODY_SECONDS", int, 60, _within(1, 3600)),
    _Key(
        "server",
        "requests_per_minute",
        "PASTA_REQUESTS_PER_MINUTE",
        int,
        6000,
        _within(1, 1_000_000),
    ),
    _Key("models", "folder", "PASTA_MODELS", str, ""),
    _Key("models", "device", "PASTA_DEVICE", str, "auto"),
    _Key("models", "queue", "PASTA_QUEUE", int, 8, _within(1, 10_000)),
    _Key("study", "folder", "PASTA_STUDY", str, ""),
    _Key("pacs", "user", "PASTA_PACS_USER", str, ""),
    _Key("pacs", "authorities", "PASTA_PACS_CA", str, ""),
    _Key("pacs", "cache", "PASTA_PACS_CACHE", str, ""),
    _Key("access", "tokens", "PASTA_TOKENS", str, ""),
    _Key("access", "audit", "PASTA_AUDIT", str, ""),
    _Key("oidc", "issuer", "PASTA_OIDC_ISSUER", str, "", _wrong_url),
    _Key("oidc", "audience", "PASTA_OIDC_AUDIENCE", str, ""),
    _Key("oidc", "keys", "PASTA_OIDC_KEYS", str, ""),
    _Key("oidc", "algorithms", "PASTA_OIDC_ALGORITHMS", list, ("RS256",), _wrong_algorithms),
    _Key("oidc", "roles_claim", "PASTA_OIDC_ROLES_CLAIM", str, "realm_access.roles"),
    _Key("oidc", "reader", "PASTA_OIDC_READER", str, "pasta-reader"),
    _Key("oidc", "coordinator", "PASTA_OIDC_COORDINATOR", str, "pasta-coordinator"),
    _Key("oidc", "admin", "PASTA_OIDC_ADMIN", str, "pasta-admin"),
    *(_Key("switches", name, f"PASTA_ALLOW_{name.upper()}", bool, False) for name in SWITCHES),
)
SECTIONS = tuple(dict.fromkeys(key.section for key in _KEYS))


def read_settings(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read settings.

    Args:
        path: of the TOML file; None for the environment alone.
        environment: variables; one that is set and not empty goes before the file.

    Returns:
        The settings; relative paths of the file are taken from its folder.

    Raises:
        SettingsError: with every mistake and its line.
    """
    document, form = _document(path)
    values: dict[tuple[str, str], Any] = {}
    form.known((), document, SECTIONS)
    for section in SECTIONS:
        keys = [key for key in _KEYS if key.section == section]
        table = form.value((), document, section, dict, {})
        form.known((section,), table, [key.name for key in keys])
        for key in keys:
            values[section, key.name] = _of_file(form, key, table, path)
    findings = list(form.findings)
    for key in _KEYS:
        text = environment.get(key.variable, "")
        if text.strip():
            values[key.section, key.name] = _of_variable(key, text.strip(), findings)
    _fitting(form, values, findings)
    findings += [each for each in form.findings if each not in findings]
    token = environment.get(ADMIN_VARIABLE, "").strip()
    if token and len(token) < _SHORTEST_TOKEN:
        text = f"is too short; give {_SHORTEST_TOKEN} characters or more."
        findings.append(Finding(0, ADMIN_VARIABLE, text, "environment"))
    if findings:
        raise SettingsError(sorted(findings, key=lambda each: (each.file, each.line)))
    secrets = {name: environment.get(name, "") for name in (PACS_PASSWORD, PACS_TOKEN)}
    return _settings(values, token, secrets)


def _document(path: Path | None) -> tuple[dict[str, Any], Form]:
    if path is None:
        return {}, Form(Lines(""), "settings")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(
            [Finding(0, "", "is not UTF-8; save it as UTF-8.", path.name)]
        ) from None
    except OSError as error:
        said = f"cannot be read ({error.strerror}); see {CONFIG_VARIABLE}, or --config."
        raise SettingsError([Finding(0, "", said, path.name)]) from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([syntax_finding(error, text, path.name)]) from error
    return document, Form(Lines(text), path.name)


def _of_file(form: Form, key: _Key, table: dict[str, Any], path: Path | None) -> Any:
    place = (key.section,)
    if key.kind is list:
        value: Any = form.words(place, table, key.name, None, list(key.default))
    else:
        value = form.value(place, table, key.name, key.kind, key.default)
    wrong = key.wrong(value) if key.name in table else ""
    if wrong:
        form.tell((*place, key.name), wrong)
    relative = (key.section, key.name) in _PATHS or (
        (key.section, key.name) == ("oidc", "keys") and "://" not in str(value)
    )
    return str(path.parent / value) if relative and value and path else value


_PATHS = (
    ("server", "tls_certificate"),
    ("server", "tls_key"),
    ("models", "folder"),
    ("study", "folder"),
    ("pacs", "authorities"),
    ("pacs", "cache"),
    ("access", "tokens"),
    ("access", "audit"),
)


def _of_variable(key: _Key, text: str, findings: list[Finding]) -> Any:
    value: Any = text
    wrong = ""
    if key.kind is list:
        value = tuple(word.strip() for word in text.split(",") if word.strip())
    elif key.kind is int:
        value = int(text) if text.isdecimal() and text.isascii() else key.default
        wrong = "" if text.isdecimal() else f"is {text[:40]!r}, expected a whole number."
    elif key.kind is bool:
        value = text.lower() in _TRUE
        wrong = (
            ""
            if text.lower() in (*_TRUE, *_FALSE)
            else f"is {text[:40]!r}, expected true or false."
        )
    wrong = wrong or key.wrong(value)
    if wrong:
        findings.append(Finding(0, key.variable, wrong, "environment"))
    return value


def _fitting(form: Form, values: dict[tuple[str, str], Any], findings: Sequence[Finding]) -> None:
    """Look whether values go together."""
    if findings:
        return
    certificate, key = values["server", "tls_certificate"], values["server", "tls_key"]
    if bool(certificate) != bool(key):
        lacking = "tls_key" if certificate else "tls_certificate"
        form.tell(("server",), f'"{lacking}" is missing; TLS needs both, or neither.')
    for name in ("tls_certificate", "tls_key"):
        if values["server", name] and not Path(values["server", name]).is_file():
            form.tell(("server", name), "there is no such file; give a PEM file.")
    host = values["server", "host"]
    if not is_loopback(host) and not values["server", "network"]:
        text = f'"{host}" is reached from other machines; add network = true if that is wanted.'
        form.tell(("server", "host"), text)
    oidc = {name: values["oidc", name] for name in ("issuer", "audience", "keys")}
    if any(oidc.values()) and not all(oidc.values()):
        lacking = next(name for name, value in oidc.items() if not value)
        form.tell(
            ("oidc",), f'"{lacking}" is missing; tokens of people need issuer, audience, keys.'
        )
    keys = values["oidc", "keys"]
    parts = urlsplit(keys)
    if "://" in keys and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        text = "must begin with https://: whoever changes keys on the way could sign any token."
        form.tell(("oidc", "keys"), text)
    elif keys and "://" not in keys and not Path(keys).is_file():
        form.tell(("oidc", "keys"), "there is no such file; give a JSON Web Key Set.")


def _settings(
    values: Mapping[tuple[str, str], Any], token: str, secrets: Mapping[str, str]
) -> Settings:
    def path(section: str, name: str) -> Path | None:
        return Path(values[section, name]) if values[section, name] else None

    oidc = {name: value for (section, name), value in values.items() if section == "oidc"}
    return Settings(
        models=path("models", "folder"),
        device=values["models", "device"] or "auto",
        queue=values["models", "queue"],
        max_upload_bytes=values["server", "max_upload_mb"] * 1024 * 1024,
        origins=tuple(values["server", "origins"]),
        study=path("study", "folder"),
        admin_token=token,
        pacs_user=values["pacs", "user"],
        pacs_password=secrets[PACS_PASSWORD],
        pacs_token=secrets[PACS_TOKEN],
        pacs_authorities=path("pacs", "authorities"),
        pacs_cache=path("pacs", "cache"),
        host=values["server", "host"],
        port=values["server", "port"],
        network=values["server", "network"],
        tls_certificate=path("server", "tls_certificate"),
        tls_key=path("server", "tls_key"),
        body_seconds=values["server", "body_seconds"],
        requests_per_minute=values["server", "requests_per_minute"],
        tokens=path("access", "tokens"),
        audit=path("access", "audit"),
        oidc=Oidc(**{**oidc, "algorithms": tuple(oidc["algorithms"])}) if oidc["issuer"] else None,
        switches=frozenset(name for name in SWITCHES if values["switches", name]),
    )


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from its own machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
