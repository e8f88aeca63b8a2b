"""The documentation: links lead somewhere, names exist, and commands run as they are written."""

import argparse
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from rmonet_d2 import model_zoo
from rmonet_d2.cli.main import COMMANDS
from rmonet_d2.engine import load_config
from rmonet_d2.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "datasets/*.md", "configs/**/*.md")
    for path in ROOT.glob(pattern)
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Names in the log of runs are those of the time of the run.
LOG = ROOT / "docs" / "experiments.md"
LOG_BEGINS = "\n## 2026-"
# Folders whose files are named in the pages.
OURS = ("rmonet_d2", "configs", "tools", "tests", "datasets", "docs", "weights")
each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


@cache
def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return text.split(LOG_BEGINS)[0] if page == LOG else text


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def commands(page: Path) -> list[str]:
    """The command lines of a page's shell blocks, without comments; continued lines joined."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if not line.startswith("#")]


def expanded(name: str) -> list[str]:
    """The names that a name with {a,b} stands for."""
    parts = re.split(r"\{([^}]*)\}", name)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@each_page
def test_links_and_pictures_exist(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@each_page
def test_named_files_exist(page):
    names = re.findall(rf"(?<![\w/.-])((?:{'|'.join(OURS)})/[\w./{{}},-]*\w)", text_of(page))
    missing = []
    for name in itertools.chain.from_iterable(map(expanded, names)):
        # Data and results are made by the user, and words in capitals stand for a name.
        is_ours = Path(name).suffix in (".py", ".yaml", ".md", ".cpp", ".ipynb", ".html")
        if is_ours and not re.search(r"[A-Z]{4}", Path(name).stem.replace("README", "")):
            missing += [] if (ROOT / name).is_file() or is_moved_config(name) else [name]
    assert not missing


def is_moved_config(name: str) -> bool:
    """Whether a config that is not there is found by this old name."""
    try:
        return bool(model_zoo.get_config_file(name.removeprefix("configs/")))
    except UserError:
        return False


@each_page
def test_named_modules_and_config_keys_exist(page):
    text = text_of(page)
    for name in re.findall(r"`(rmonet_d2(?:\.\w+)+)", text):
        module, attributes = ROOT / "rmonet_d2", name.split(".")[1:]
        while attributes and (module.with_suffix(".py").is_file() or module.is_dir()):
            deeper = module / attributes[0]
            if not (deeper.is_dir() or deeper.with_suffix(".py").is_file()):
                break
            module, attributes = deeper, attributes[1:]
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        assert all(attribute in file.read_text() for attribute in attributes), name
    cfg = load_config()
    for key in re.findall(
        r"\b((?:MODEL|SOLVER|INPUT|TEST|DATALOADER)\.[A-Z0-9_.]*[A-Z0-9_])", text
    ):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_configs_of_the_log_are_found_by_their_old_names():
    for name in set(re.findall(r"configs/(\w+)\.yaml", LOG.read_text(encoding="utf-8"))):
        assert Path(model_zoo.get_config_file(name)).is_file()


def test_equations_are_where_the_table_says():
    rows = [
        line for line in text_of(ROOT / "docs" / "architecture.md").splitlines() if ".py`" in line
    ]
    table = [line for line in rows if line.startswith("|") and line.count("|") == 5]
    assert len(table) > 15
    for row in table:
        *_, files, names = (cell.strip() for cell in row.strip("|").split("|"))
        text = "".join((ROOT / file).read_text() for file in re.findall(r"`([^`]+)`", files))
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(?:def|class) {name}\b", text, re.MULTILINE), (name, files)


@each_page
def test_commands_of_the_pages_are_understood(page, monkeypatch):
    """Each ``rmonet`` line parses: commands and options exist, and none is cut short."""
    monkeypatch.setattr(argparse.ArgumentParser, "exit", _refuse)
    for line in commands(page):
        assert "..." not in line, line
        words = shlex.split(line)
        if words[:1] == ["rmonet"] and words[1:] != ["--help"]:
            module = importlib.import_module(f"rmonet_d2.cli.{COMMANDS[words[1]][0]}")
            try:
                module.build_parser().parse_args(words[2:])
            except argparse.ArgumentError as error:
                pytest.fail(f"{line}: {error}")


def _refuse(parser, status=0, message=None):
    raise argparse.ArgumentError(None, message or "asks for help")


def test_readme_is_short_and_names_the_environment():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) < 130
    shell = blocks(readme, "bash")
    assert shell
    for block in shell:
        uses_environment = re.search(r"^(rmonet|python|pip) ", block, re.MULTILINE)
        assert not uses_environment or "source .venv/bin/activate\n" in block


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout after ``make setup``, for commands that write to it."""
    for name in ("datasets", "configs", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    program = shutil.which("rmonet", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("the package is not installed, so that there is no command rmonet")
    (scripts / "activate").write_text(f'PATH="{os.path.dirname(program)}:$PATH"\n')
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_readme_finds_objects_with_shipped_weights(checkout):
    """The block that needs no training, as it stands."""
    (block,) = (text for text in blocks(ROOT / "README.md", "bash") if "--weights" in text
                and "discover" in text)  # fmt: skip
    run(["bash", "-e", "-c", block], checkout)
    assert (checkout / "output" / "found" / "coco_annotations.json").is_file()


def test_readme_help(checkout):
    lines = [line for line in commands(ROOT / "README.md") if line.endswith("--help")]
    assert lines
    for line in lines:
        output = run(["bash", "-e", "-c", f"source .venv/bin/activate; {line}"], checkout)
        assert all(f"\n  {name} " in output for name in COMMANDS)


def test_python_snippets_run(checkout):
    """Those of README.md and of docs/usage.md, one after the other in one process."""
    pages = (ROOT / "README.md", ROOT / "docs" / "usage.md")
    snippets = [block for page in pages for block in blocks(page, "python")]
    assert len(snippets) >= 2
    code = "\n".join(f"exec({snippet!r}, {{}})" for snippet in snippets)
    run([sys.executable, "-c", code], checkout)
