"""tools/install_detectron2.py: no network, and nothing installed into the running environment."""

import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PROGRAM = TOOLS / "install_detectron2.py"
LAYER = "detectron2/layer.py"


@pytest.fixture
def program(monkeypatch):
    """The program as a fresh module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("install_detectron2", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_source(program):
    """A small archive's files: every package that the wheel needs, and one line to fix."""
    files = {f"{folder}__init__.py": "" for folder in program.PACKAGES}
    files["detectron2/__init__.py"] = '__version__ = "0.6"\n'
    files["detectron2/layer.py"] = "a = np.int\nb = np.int\n"
    files["detectron2/model_zoo/configs/tiny.yaml"] = "VERSION: 2\n"
    files["projects/PointRend/point_rend/head.py"] = "HEAD = 1\n"
    files["setup.py"] = "raise SystemExit('must never run')\n"
    files["LICENSE"] = "the licence\n"
    return files


def write_archive(program, path, files, root=None):
    root = program.ARCHIVE_ROOT if root is None else root
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(root + name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def build(program, fake_source, tmp_path):
    """Builds the small archive's wheel in tmp_path; `fixes` and `damage` (bytes) can be given."""
    archive = write_archive(program, tmp_path / "fake.tar.gz", fake_source)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()

    def build_fake(folder=tmp_path, fixes=(LAYER, "np.int\n", "int\n", 2), damage=b""):
        archive.write_bytes(archive.read_bytes() + damage)
        return program.build(archive, folder, sha256, {"some reason": [program.Fix(*fixes)]})

    return build_fake


def fake_detectron2(folder, version="0.6", engine=""):
    """A package `detectron2` under `folder` with what the program's probe imports."""
    for name in ("engine", "evaluation", "model_zoo", "modeling"):
        (folder / "detectron2" / name).mkdir(parents=True)
        (folder / "detectron2" / name / "__init__.py").write_text("")
    (folder / "detectron2/__init__.py").write_text(f"__version__ = {version!r}\n")
    (folder / "detectron2/engine/__init__.py").write_text(engine)
    return folder


def run_program(*arguments, path):
    """Runs the program with `path` first on PYTHONPATH and no network for pip."""
    environment = dict(os.environ, PYTHONPATH=str(path), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_archive_becomes_a_right_wheel(program, build, tmp_path):
    wheel = build()
    assert wheel.name == "detectron2-0.6+rmonet1-py3-none-any.whl"
    info = "detectron2-0.6+rmonet1.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert contents[LAYER] == b"a = int\nb = int\n"
    assert contents["detectron2/projects/point_rend/head.py"] == b"HEAD = 1\n"
    assert set(program.ADDED_FILES) <= contents.keys()
    assert contents[f"{info}/LICENSE"] == b"the licence\n"
    assert "setup.py" not in contents
    metadata = contents[f"{info}/METADATA"].decode()
    assert "Name: detectron2\nVersion: 0.6+rmonet1\n" in metadata
    assert "Requires-Dist: iopath<0.1.10,>=0.1.7\n" in metadata and "black" not in metadata

    rows = {row[0]: row[1:] for row in csv.reader(contents[f"{info}/RECORD"].decode().splitlines())}
    assert rows.keys() == contents.keys()
    assert rows[LAYER][1] == str(len(contents[LAYER]))
    assert rows[f"{info}/RECORD"] == ["", ""]


def test_same_archive_gives_the_same_wheel(build, tmp_path):
    assert build().read_bytes() == build(tmp_path / "again").read_bytes()


def test_pip_installs_the_wheel(program, build, tmp_path):
    wheel = build()
    target = tmp_path / "site"
    program.run_pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    code = (
        "import importlib.metadata as m, detectron2\n"
        "from detectron2.projects.point_rend import head\n"
        "print(m.version('detectron2'), detectron2.__version__, head.HEAD, detectron2.__file__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=str(target)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[:3] == ["0.6+rmonet1", "0.6", "1"]
    assert str(target) in result.stdout
    assert (target / "detectron2/model_zoo/configs/tiny.yaml").is_file()


def test_changed_archive_installs_nothing(program, build, tmp_path):
    with pytest.raises(program.InstallError, match="sha256 is .*expected"):
        build(damage=b"\0")
    assert not list(tmp_path.glob("*.whl"))


def test_changed_archive_on_the_command_line(program, fake_source, tmp_path):
    archive = write_archive(program, tmp_path / "changed.tar.gz", fake_source)
    result = run_program("--archive", archive, "--wheel-dir", tmp_path / "out", path=tmp_path)
    assert result.returncode == 1
    assert "sha256" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_archive(program, tmp_path):
    with pytest.raises(program.InstallError, match="nowhere.tar.gz: no such file"):
        program.build(tmp_path / "nowhere.tar.gz", tmp_path)


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ((LAYER, "np.float\n", "float\n"), r"layer.py: expected 1 times, found 0 .*np\.float"),
        ((LAYER, "np.int\n", "int\n", 1), r"layer.py: expected 1 times, found 2 .*np\.int"),
        ((LAYER, "np.int\n", "int\n", 3), r"layer.py: expected 3 times, found 2 .*np\.int"),
        (("detectron2/gone.py", "x", "y"), r"gone.py: no such file"),
    ],
)
def test_fix_that_does_not_fit(program, build, tmp_path, fix, message):
    with pytest.raises(program.InstallError, match=message) as error:
        build(fixes=fix)
    assert "some reason" in str(error.value)
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize("name", ["../outside.py", "detectron2/../../outside.py", "a\\b.py"])
def test_path_out_of_the_archive_is_refused(program, tmp_path, name):
    archive = write_archive(program, tmp_path / "bad.tar.gz", {name: ""})
    with pytest.raises(program.InstallError, match="unsafe member"):
        program.read_archive(archive)


def test_absolute_path_and_link_are_refused(program, tmp_path):
    absolute = write_archive(program, tmp_path / "abs.tar.gz", {"/etc/outside": ""}, root="")
    with pytest.raises(program.InstallError, match="unsafe member '/etc/outside'"):
        program.read_archive(absolute)
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo(program.ARCHIVE_ROOT + "link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(program.InstallError, match="unsafe member .*link.py"):
        program.read_archive(tmp_path / "link.tar.gz")


def test_archive_without_a_package(program, fake_source, tmp_path):
    del fake_source["projects/DeepLab/deeplab/__init__.py"]
    with pytest.raises(program.InstallError, match="no projects/DeepLab/deeplab/__init__.py"):
        program.select_files(fake_source)


@pytest.mark.parametrize("version", ["0.6", "0.6+cu113", "0.7.dev20260606", "1.0"])
def test_importable_detectron2_is_kept(tmp_path, version):
    # Installing is impossible here (no index), so success means that the program kept it.
    fake_detectron2(tmp_path, version)
    result = run_program(path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "kept" in result.stdout and str(tmp_path) in result.stdout


@pytest.mark.parametrize(
    ("version", "engine", "message"),
    [
        ("0.5", "", "has version 0.5; 0.6 is needed"),
        ("0.6", "from detectron2 import _C", "does not import: ImportError: cannot import name"),
    ],
)
def test_unusable_detectron2_is_not_overwritten(tmp_path, version, engine, message):
    fake_detectron2(tmp_path, version, engine)
    result = run_program(path=tmp_path)
    assert result.returncode == 1 and not result.stdout  # not even begun
    assert message in result.stderr and "--force" in result.stderr
    assert str(tmp_path / "detectron2") in result.stderr and "Traceback" not in result.stderr


def test_older_build_of_ours_is_replaced_and_a_current_one_kept(program):
    found = {"torch": True, "path": "/somewhere/detectron2/__init__.py", "version": "0.6"}
    assert not program.is_kept(found, "0.6+rmonet0")
    assert program.is_kept(found, program.VERSION)
    assert program.is_kept(found, None)
    assert not program.is_kept({"torch": True}, None)


def test_missing_torch_is_said(program, monkeypatch):
    monkeypatch.setattr(program, "probe", lambda: {"torch": False})
    with pytest.raises(program.InstallError, match="torch is missing"):
        program.install(archive=None, force=False, wheel_dir=None)


def test_installed_detectron2_has_the_fixes(program):
    distribution = program.installed_wheel()
    if not distribution or "+rmonet" not in distribution:
        pytest.skip(f"this Detectron2 ({distribution}) is not the fixed build")
    assert distribution == program.VERSION
    folder = Path(importlib.util.find_spec("detectron2").origin).parents[1]
    for group in program.FIXES.values():
        for fix in group:
            text = (folder / fix.path).read_text(encoding="utf-8")
            fixed = text.count(fix.new) >= fix.count and (fix.old in fix.new or fix.old not in text)
            assert fixed, f"{fix}: fixes changed since; raise VERSION, then `make setup`"
    import detectron2.layers

    with pytest.raises(NotImplementedError, match="no compiled operator 'nms_rotated'"):
        detectron2.layers.nms_rotated(None, None, 0.5)
