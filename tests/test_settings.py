import pytest

from service.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """An environment without settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VULTUS_{name.upper()}", raising=False)


def test_a_variable_becomes_a_setting(monkeypatch):
    monkeypatch.setenv("VULTUS_PORT", "8123")
    assert load_settings().port == 8123


def test_without_variables_every_setting_has_its_default():
    assert load_settings() == Settings.model_construct()


def test_an_unknown_variable_stops_the_start_and_is_named(monkeypatch):
    monkeypatch.setenv("VULTUS_PROT", "8123")
    with pytest.raises(SettingsError, match="VULTUS_PROT"):
        load_settings()


def test_variables_of_others_are_left_alone(monkeypatch):
    monkeypatch.setenv("VULTURE_PORT", "x")
    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "65536"), ("FPIR", "0"), ("FMR", "1"), ("ENGINE", "abacus"), ("THREADS", "-1"), ("BATCH", "many")],
)
def test_a_value_that_is_not_allowed_is_named(monkeypatch, name, value):
    monkeypatch.setenv(f"VULTUS_{name}", value)
    with pytest.raises(SettingsError, match=f"VULTUS_{name}"):
        load_settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name):
    assert Settings.model_fields[name].description


def test_the_key_is_not_shown_with_the_settings(monkeypatch):
    monkeypatch.setenv("VULTUS_KEY", "vk_secret")
    assert "vk_secret" not in repr(load_settings())
