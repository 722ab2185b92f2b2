"""One TOML file and the environment: what is wrong is told with its line."""

import re
from pathlib import Path

import pytest

from pasta.settings import Settings, SettingsError, is_loopback, read_settings

EXAMPLE = Path(__file__).resolve().parents[1] / "server_config" / "pasta.example.toml"


@pytest.fixture
def wrong(tmp_path):
    """What is said of a file and an environment."""

    def told(text, **environment):
        path = tmp_path / "pasta.toml"
        path.write_text(text)
        with pytest.raises(SettingsError) as error:
            read_settings(path, environment)
        return str(error.value).splitlines()

    return told


def test_the_example_shows_every_key_with_its_default():
    assert read_settings(EXAMPLE, {}) == Settings()
    import tomllib

    from pasta.settings import _KEYS

    document = tomllib.loads(EXAMPLE.read_text())
    shown = {(section, name) for section, table in document.items() for name in table}
    assert shown == {(key.section, key.name) for key in _KEYS}
    for key in _KEYS:
        assert re.search(rf"^{key.name} = .*# {key.variable}\b", EXAMPLE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 0\n", "pasta.toml:2: server.port: is 0, expected 1 to 65535."),
        ('[server]\n\nport = "8000"\n', 'pasta.toml:3: server.port: is the text "8000", expected'),
        ("[server]\nprot = 1\n", 'pasta.toml:2: server.prot: unknown key; did you mean "port"?'),
        ("[sever]\nport = 1\n", 'pasta.toml:1: sever: unknown key; did you mean "server"?'),
        ('[server]\nhost = "0.0.0.0"\n', "pasta.toml:2: server.host: "),
        ('[server]\nhost = "a b"\n', "pasta.toml:2: server.host: "),
        ('[server]\norigins = ["*"]\n', "pasta.toml:2: server.origins: "),
        ('[server]\ntls_key = "k.pem"\n', 'pasta.toml:1: server: "tls_certificate" is missing'),
        ('[oidc]\nalgorithms = ["HS256"]\n', 'pasta.toml:2: oidc.algorithms: "HS256" is not'),
        ('[oidc]\nalgorithms = ["none"]\n', 'pasta.toml:2: oidc.algorithms: "none" is not'),
        ('[oidc]\nissuer = "https://a/b"\n', 'pasta.toml:1: oidc: "audience" is missing'),
        ("[switches]\nreload = 1\n", "pasta.toml:2: switches.reload: is 1, expected true or false"),
        ("server = 1\n", "pasta.toml:1: server: is 1, expected a table"),
        ("[server]\nport = \n", "pasta.toml:2: "),
    ],
)
def test_a_mistake_is_told_with_its_line(wrong, text, said):
    assert any(line.startswith(said) for line in wrong(text)), wrong(text)


def test_keys_of_an_identity_provider_come_over_tls(wrong):
    text = '[oidc]\nissuer = "https://a/b"\naudience = "c"\nkeys = "http://id.example/certs"\n'
    (line,) = wrong(text)
    assert line.startswith("pasta.toml:4: oidc.keys: must begin with https://")


def test_all_mistakes_are_told_at_once(wrong):
    lines = wrong("[server]\nport = 0\nmax_upload_mb = -1\n", PASTA_QUEUE="many")
    assert [line.split(":")[:2] for line in lines] == [
        ["environment", " PASTA_QUEUE"],
        ["pasta.toml", "2"],
        ["pasta.toml", "3"],
    ]


def test_a_variable_goes_before_the_file(tmp_path):
    path = tmp_path / "pasta.toml"
    path.write_text('[server]\nport = 1234\n[models]\nfolder = "weights"\nqueue = 3\n')
    settings = read_settings(path, {"PASTA_PORT": "4321", "PASTA_ALLOW_RELOAD": "yes"})
    assert (settings.port, settings.queue, settings.switches) == (4321, 3, {"reload"})
    assert settings.models == tmp_path / "weights"


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.toml: cannot be read"):
        read_settings(tmp_path / "nothing.toml", {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PASTA_PORT", "x"),
        ("PASTA_NETWORK", "maybe"),
        ("PASTA_ADMIN_TOKEN", "short"),
        ("PASTA_HOST", "0.0.0.0"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused(variable, value):
    with pytest.raises(SettingsError):
        read_settings(None, {variable: value})


def test_the_admin_token_is_shown_nowhere():
    settings = Settings.from_environment({"PASTA_ADMIN_TOKEN": "a long secret of mine"})
    assert settings.admin_token
    assert "secret" not in repr(settings)


def test_loopback_is_no_matter_of_how_a_name_begins():
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.8.9.1")
    assert is_loopback("::1")
    assert not is_loopback("127.evil.example")
    assert not is_loopback("0.0.0.0")
