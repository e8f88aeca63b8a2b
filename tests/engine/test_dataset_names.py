"""How data sets are named on the command line and in config files."""

import pytest

from rmonet_d2.engine import ConfigError, load_config


@pytest.mark.parametrize(
    "value, names",
    [
        ("folder:/my photos, all", ("folder:/my photos, all",)),
        ("clevr_train", ("clevr_train",)),
        ("('a', 'b')", ("a", "b")),
        ("['a']", ("a",)),
        ("()", ()),
        (("a",), ("a",)),
    ],
)
@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_one_data_set_needs_no_tuple(key, value, names):
    assert load_config("", [f"DATASETS.{key}", value]).DATASETS[key] == names


@pytest.mark.parametrize("value", ["a,b", "3"])
def test_other_values_are_an_error_with_a_hint(value):
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN \"\('NAME',\)\""):
        load_config("", ["DATASETS.TRAIN", value])


def test_a_word_in_a_file_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "config.yaml").write_text("DATASETS: {TRAIN: 'folder:/x'}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: .* as a tuple"):
        load_config(str(tmp_path / "config.yaml"))
