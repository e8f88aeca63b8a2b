"""Config files: plain YAML only, and every mistake is one line that names the file or the key."""

import pytest

from rmonet_d2.engine import ConfigError, load_config
from rmonet_d2.engine.config_file import read_config_file, read_yaml
from rmonet_d2.utils.run_log import read_run


@pytest.fixture
def write(tmp_path):
    def make(text, name="a.yaml"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return make


RUNS_CODE = [
    "!!python/object/apply:os.mkdir [{folder}]",
    "!!python/object/new:os.mkdir [{folder}]",
    "!!python/object/apply:os.system ['mkdir {folder}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:os.PathLike {{}}",
    "!own 3",
]


@pytest.mark.parametrize("tag", RUNS_CODE)
@pytest.mark.parametrize("as_base", [False, True])
def test_a_tag_runs_nothing_and_is_named(write, tmp_path, tag, as_base):
    folder = tmp_path / "ran"
    path = write(f"MODEL:\n  WEIGHTS: {tag.format(folder=folder)}\n", "tag.yaml")
    if as_base:
        path = write("_BASE_: tag.yaml\n")
    with pytest.raises(ConfigError, match=r"tag\.yaml: .*Only plain YAML") as error:
        load_config(path)
    assert not folder.exists() and "\n" not in str(error.value)


def test_the_report_runs_no_tag_either(write, tmp_path):
    write(f"MODEL: {RUNS_CODE[0].format(folder=tmp_path / 'ran')}\n", "config.yaml")
    assert read_run(str(tmp_path)).config == {}
    assert not (tmp_path / "ran").exists()


def test_tuples_are_read(write):
    assert read_yaml(write("a: !!python/tuple [1, 2]")) == {"a": (1, 2)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.yaml is empty"),
        ("- 1\n- 2\n", r"a\.yaml holds a list"),
        ("some text", r"a\.yaml holds a str"),
        ("a: [", r"a\.yaml is not a YAML file"),
        (b"\x00\xff", r"a\.yaml is not a YAML file"),
        ("[" * 20_000, r"a\.yaml is not a YAML file"),
        ("a: &a [*a]", r"a\.yaml holds more than"),
        ("x: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"x{n}: &{c} [{', '.join([f'*{b}'] * 10)}]\n"
            for n, (b, c) in enumerate(zip("abcdefg", "bcdefgh", strict=True))
        ), r"a\.yaml holds more than"),
        ("_BASE_: 3", r"a\.yaml: _BASE_ is 3"),
        ("_BASE_: [b.yaml]", r"a\.yaml: _BASE_ is \['b\.yaml'\]"),
        ("_BASE_:", r"a\.yaml: _BASE_ is None"),
        ("_BASE_: nowhere.yaml", r"a\.yaml: its _BASE_ .*nowhere\.yaml does not exist"),
        ("_BASE_: a.yaml", r"a\.yaml: its _BASE_ leads back to itself"),
        ("MODEL: 3", r"a\.yaml: .*MODEL"),
        ("MODEL:\n  WEIGHTS:\n    A: 1", r"a\.yaml: .*MODEL\.WEIGHTS"),
        ("1: 2", r"a\.yaml: "),
        ("VERSION: 3", r"VERSION is 3"),
    ],
)  # fmt: skip
def test_files_that_are_no_config_are_one_line(write, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(text))
    assert "\n" not in str(error.value)


def test_two_files_in_a_circle(write):
    write("_BASE_: a.yaml", "b.yaml")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(write("_BASE_: b.yaml"))


def test_a_base_is_overridden_key_by_key(write):
    write("A: {X: 1, Y: [1, 2]}\nB: 3", "b.yaml")
    path = write("_BASE_: b.yaml\nA: {Y: [3]}")
    assert read_config_file(path) == {"A": {"X": 1, "Y": [3]}, "B": 3}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.MAX_ITER", "-3"),
        ("SOLVER.BASE_LR", "float('nan')"),
        ("SOLVER.BASE_LR", float("nan")),
        ("SOLVER.BASE_LR", float("inf")),
        ("SOLVER.BASE_LR", -1.0),
        ("SOLVER.CHECKPOINT_PERIOD", 0),
        ("MODEL.PSEUDO_LABELS.MIN_VALUE", float("nan")),
        ("MODEL.META_ARCHITECTURE", "RMONett"),
        ("MODEL.BACKBONE.NAME", "resnet"),
        ("MODEL.ROI_MASK_HEAD.NAME", ""),
        ("MODEL.DEVICE", "banana"),
        ("MODEL.DEVICE", "None"),
        ("SOLVER.AMP.DTYPE", "bfloat\n16"),
        ("MODEL.SCENE.NUM_COMPONENTS", "None"),
        ("MODEL.META_ARCHITECTURE", "None"),
        ("INPUT.IMAGE_SIZE", "None"),
        ("MODEL.DEVICE", "cuda:x"),
        ("INPUT.IMAGE_SIZE", [32_000_000, 64]),
        ("INPUT.IMAGE_SIZE", ["a", "b"]),
        ("INPUT.IMAGE_SIZE", [None, 64]),
        ("MODEL.FPN.OUT_CHANNELS", 2_000_000),
        ("MODEL.VAE.ENCODER_CHANNELS", [8, 10**9, 8, 8]),
        ("MODEL.VAE.ENCODER_CHANNELS", ["x", 8, 8, 8]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [["a"]]),
        ("DATALOADER.NUM_WORKERS", -1),
        ("SEED", 10**30),
        ("MODEL.SCENE.SIGMA_FG", 0.0),
        ("MODEL.SCENE.SIGMA_BG", -1.0),
        ("MODEL.REGION_WARMUP.MAX_SIDE", 1.5),
        ("MODEL.REGION_WARMUP.MIN_SIDE", 0.7),
    ],
)
def test_values_that_cannot_be_used_name_their_key(key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as error:
        load_config("", [key, value])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_name_that_is_almost_right_is_suggested():
    with pytest.raises(ConfigError, match='Did you mean "RMONet"'):
        load_config("", ["MODEL.META_ARCHITECTURE", "RMONett"])


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_run_without_data_is_refused(eval_only, tmp_path):
    from argparse import Namespace

    from rmonet_d2.engine import setup

    opts = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "out")]
    args = Namespace(config_file="", opts=opts, eval_only=eval_only)
    with pytest.raises(ConfigError, match=f"DATASETS.{'TEST' if eval_only else 'TRAIN'} is empty"):
        setup(args)
    assert not (tmp_path / "out").exists()
