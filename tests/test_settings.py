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
    [
        ("CATALOG", "mysql://u:p@h/d"),
        ("REDIS", "http://h"),
        ("VISITS", "memory"),
        ("RATE", "-1"),
        ("POLL", "0"),
        ("PORT", "65536"),
        ("FPIR", "0"),
        ("FMR", "1"),
        ("ENGINE", "abacus"),
        ("THREADS", "-1"),
        ("BATCH", "many"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(monkeypatch, name, value):
    monkeypatch.setenv(f"VULTUS_{name}", value)
    with pytest.raises(SettingsError, match=f"VULTUS_{name}"):
        load_settings()


def test_a_gpu_that_milvus_would_not_use_is_refused(monkeypatch):
    monkeypatch.setenv("VULTUS_INDEX", "milvus")
    assert load_settings().index_device == "auto"
    monkeypatch.setenv("VULTUS_INDEX_DEVICE", "cuda")
    with pytest.raises(SettingsError, match=r"VULTUS_INDEX_DEVICE: .*VULTUS_INDEX=local"):
        load_settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name):
    assert Settings.model_fields[name].description


def test_keys_and_passwords_are_not_shown_with_the_settings(monkeypatch):
    monkeypatch.setenv("VULTUS_KEY", "vk_secret")
    monkeypatch.setenv("VULTUS_CATALOG", "postgresql://u:a_secret@h/d")
    monkeypatch.setenv("VULTUS_REDIS", "redis://:a_secret@h/0")
    assert "secret" not in repr(load_settings()).replace("secret=None", "")


def test_a_password_in_a_refused_setting_is_not_repeated(monkeypatch):
    monkeypatch.setenv("VULTUS_CATALOG", "mysql://u:a_secret@h/d")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "a_secret" not in str(refused.value)


def test_a_setting_may_come_as_a_file(tmp_path):
    (tmp_path / "vultus_catalog").write_text("postgresql://vultus:secret@there/vultus\n")
    (tmp_path / "of_another_program").write_text("x")
    settings = load_settings(tmp_path)
    assert settings.catalog == "postgresql://vultus:secret@there/vultus"
    assert "secret@" not in repr(settings)


def test_a_variable_goes_before_a_file(monkeypatch, tmp_path):
    (tmp_path / "vultus_port").write_text("8001")
    monkeypatch.setenv("VULTUS_PORT", "8002")
    assert load_settings(tmp_path).port == 8002


def test_a_file_that_names_no_setting_stops_the_start(tmp_path):
    (tmp_path / "vultus_katalog").write_text("x")
    with pytest.raises(SettingsError, match="VULTUS_KATALOG"):
        load_settings(tmp_path)


def test_a_file_with_a_value_that_is_not_allowed_is_named(tmp_path):
    (tmp_path / "vultus_port").write_text("many")
    with pytest.raises(SettingsError, match="VULTUS_PORT"):
        load_settings(tmp_path)


def test_without_the_folder_nothing_is_missed(tmp_path):
    assert load_settings(tmp_path / "none") == Settings.model_construct()
