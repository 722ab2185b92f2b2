"""Settings: checked once, and each refusal names the field and the mend."""

import pytest
from PASTAAidLib.settings import Settings, SettingsError


def test_defaults_and_the_texts_of_a_settings_file_are_read(tmp_path):
    assert Settings.from_values({}, tmp_path) == Settings(folder=tmp_path)
    values = {
        "url": "localhost:8000/",
        "reader": "R1",
        "clock_visible": "false",
        "run_ai_on_open": 0,
        "idle_seconds": "45",
        "autosave_seconds": 5,
        "arm": "solo",
        "token": None,
        "colour": "of something else",
    }
    settings = Settings.from_values(values, tmp_path)
    assert settings.url == "http://localhost:8000"
    assert (settings.clock_visible, settings.run_ai_on_open) == (False, False)
    assert (settings.idle_seconds, settings.autosave_seconds) == (45.0, 5.0)
    assert (settings.arm, settings.token) == ("solo", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "ftp://host"),
        ("url", "http://"),
        ("url", "http://user:secret@host"),
        ("url", "http://host:99999"),
        ("url", "http://host?x=1"),
        ("url", 5),
        ("token", "a\nb"),
        ("reader", "Dr. Jane Doe"),
        ("reader", "_R1"),
        ("reader", "R" * 33),
        ("level", "chief"),
        ("arm", "both"),
        ("tag", ""),
        ("tag", "../final"),
        ("strategy", "a/b"),
        ("autosave_seconds", 4.9),
        ("autosave_seconds", 31),
        ("idle_seconds", "nan"),
        ("idle_seconds", "soon"),
        ("idle_seconds", True),
        ("cache_gb", 0),
        ("clock_visible", "perhaps"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name, value, tmp_path):
    with pytest.raises(SettingsError) as caught:
        Settings.from_values({name: value}, tmp_path)
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: ")


def test_the_token_is_never_shown(tmp_path):
    assert "secret" not in repr(Settings(token="secret", folder=tmp_path))


def test_readers_and_servers_have_workplaces_of_their_own(tmp_path):
    one = Settings(reader="R1", folder=tmp_path)
    others = [
        Settings(reader="R2", folder=tmp_path),
        Settings(reader="R1", url="http://b", folder=tmp_path),
    ]
    assert len({one.workplace, *(other.workplace for other in others)}) == 3
