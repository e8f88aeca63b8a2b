"""Pages that are made from code, or are code."""

import importlib.util
import json

import matplotlib
from detectron2.config import get_cfg
from small_model import ROOT

from rmonet_d2.config import add_rmonet_config


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_reference_is_current():
    page = load_script("config_reference")
    text = page.make_page(page.SOURCE.read_text(encoding="utf-8"))
    written = page.TARGET.read_text(encoding="utf-8")
    assert written == text, "run `python tools/config_reference.py`"


def test_the_config_reference_has_every_key():
    page = load_script("config_reference")
    listed = [key for key, _ in page.read_keys(page.SOURCE.read_text(encoding="utf-8"))]
    cfg, stock = get_cfg(), page._values(get_cfg())
    add_rmonet_config(cfg)
    values = page._values(cfg)
    changed = {key for key, value in values.items() if key not in stock or stock[key] != value}
    assert changed - set(listed) == set()
    assert len(listed) == len(set(listed))
    described = {key: text for key, text in page.read_keys(page.SOURCE.read_text())}
    assert "K" in described["MODEL.SCENE.NUM_COMPONENTS"]


def test_the_quickstart_runs(tmp_path, monkeypatch):
    """In a short form: without the cells tagged "slow", and with fewer scenes."""
    monkeypatch.chdir(ROOT)
    matplotlib.use("Agg")
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    names, ran = {"__name__": "__main__"}, 0
    shorter = {
        'OUTPUT = ROOT / "output" / "quickstart"': f"OUTPUT = Path({str(tmp_path)!r})",
        "NUM_SCENES = 20": "NUM_SCENES = 3",
        "range(60)": "range(3)",
        "FOLDER.relative_to(ROOT)": "FOLDER",
        '"--steps", "5"': '"--steps", "2"',
    }
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        for long, short in shorter.items():
            source = source.replace(long, short)
        code = compile(source, cell["id"], "exec")
        if "slow" not in cell["metadata"].get("tags", ()):
            exec(code, names)
            ran += 1
    assert ran >= 6
    assert len(names["instances"]) == 3 and len(names["latents"]) >= 6
    assert (tmp_path / "traversal" / "traversal.html").is_file()
