#!/usr/bin/env python
"""Install Detectron2 0.6 as a pure-Python wheel, unless it is already there; needs no compiler.

    python tools/install_detectron2.py                    # keeps a working Detectron2
    python tools/install_detectron2.py --archive FILE     # offline, from a downloaded archive
    python tools/install_detectron2.py --wheel-dir DIR    # builds the wheel, but installs nothing

An importable Detectron2 (0.6 or newer, including upstream's main branch) is left unchanged.
Otherwise, this program

1. downloads the source archive `pb1-detectron2 0.6` with pip, using your index settings. Its Python
   files are those of upstream's tag v0.6; the C++ and CUDA sources are missing;
2. verifies the archive's sha256;
3. applies the replacements in `detectron2_fixes.py`, each of which must match exactly;
4. builds a wheel named `detectron2`, and installs it with pip.

torch must be installed first, because the archive's setup.py, which pip runs on download, imports
it. The exit status is 0 on success, 1 after an error, and 2 if an option is invalid.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from detectron2_fixes import ADDED_FILES, FIXES, REQUIREMENTS, Fix

VERSION = "0.6+rmonet1"  # increase the number after "rmonet" whenever the fixes change
OLDEST = (0, 6)
ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
ARCHIVE_ROOT = "pb1-detectron2-0.6/"
# Newer versions of pip reject this archive, because one of its extras names a package by URL.
DOWNLOAD_PIP = "pip==25.3"

# Folder in the archive -> folder in the wheel (as in upstream's setup.py).
PACKAGES = {
    "detectron2/": "detectron2/",
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}

# Imports what this project uses; `import detectron2` alone also succeeds in broken installations.
PROBE = """
import importlib.util, json, sys
sys.path = [entry for entry in sys.path if entry]  # not the current folder
found = {"torch": importlib.util.find_spec("torch") is not None}
spec = importlib.util.find_spec("detectron2")
if spec is not None and spec.origin is not None:
    found["path"] = spec.origin
    try:
        import detectron2
        found["version"] = str(getattr(detectron2, "__version__", "0"))
        import detectron2.engine, detectron2.evaluation, detectron2.model_zoo, detectron2.modeling
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
print("\\nPROBE" + json.dumps(found))
"""

REMOVE = "Repair or remove your Detectron2 (`python -m pip uninstall detectron2`)"


class InstallError(Exception):
    """Installation failed; the message says why and what to do."""


def probe() -> dict:
    """Find out what this Python imports.

    Returns:
        "torch" (bool), and if there is a Detectron2, its "path", "version" and import "error".

    Raises:
        InstallError: importing Detectron2 crashes Python.
    """
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    _, marker, answer = result.stdout.rpartition("\nPROBE")
    if not marker:
        raise InstallError(f"{REMOVE}; it crashes {sys.executable}:\n{result.stderr}")
    return json.loads(answer)


def installed_wheel() -> str | None:
    """Return the version of the installed distribution `detectron2`, or None without one."""
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None


def is_kept(found: dict, distribution: str | None) -> bool:
    """Return whether to keep the Detectron2 that `probe` found.

    False means that there is none, or that another version of this program built it.

    Raises:
        InstallError: Detectron2 is too old or cannot be imported.
    """
    if "path" not in found:
        return False
    if distribution and "+rmonet" in distribution and distribution != VERSION:
        return False
    where = f"Detectron2 at {Path(found['path']).parent}"
    remedy = f"{REMOVE}, or replace it: `python tools/install_detectron2.py --force`."
    if "version" in found:
        numbers = re.match(r"(\d+)\.(\d+)", found["version"])
        if not numbers or tuple(map(int, numbers.groups())) < OLDEST:
            raise InstallError(f"{where} has version {found['version']}; 0.6 is needed. {remedy}")
    if "error" in found:
        raise InstallError(f"{where} does not import: {found['error']}\n{remedy}")
    return True


def run_pip(*arguments: str, pip_from: Path | None = None) -> None:
    """Run `python -m pip`, or the pip unpacked in `pip_from`.

    Raises:
        InstallError: pip failed.
    """
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0")
    if pip_from is not None:
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(pip_from), inherited]))
    command = [sys.executable, "-m", "pip", *arguments]
    result = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if result.returncode:
        raise InstallError(f"{result.stdout}\nfailed (see above): {' '.join(command)}")


def download(folder: Path) -> Path:
    """Download the archive into `folder` with pip, and return its path.

    Raises:
        InstallError: setuptools is missing, or pip failed.
    """
    if importlib.util.find_spec("setuptools") is None:
        raise InstallError("setuptools is missing: `python -m pip install 'setuptools<82'` first.")
    run_pip("install", "--quiet", "--no-deps", "--target", str(folder / "pip"), DOWNLOAD_PIP)
    requirement = folder / "archive.txt"
    requirement.write_text(f"{ARCHIVE} --hash=sha256:{SHA256}\n")
    run_pip(
        *("download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"),
        *("--require-hashes", "--requirement", str(requirement), "--dest", str(folder)),
        pip_from=folder / "pip",
    )
    return next(folder.glob("*.tar.gz"))


def check_archive(archive: Path, sha256: str) -> None:
    """Verify that `archive` is exactly the file that the fixes were written for.

    Raises:
        InstallError: the file is missing or another one.
    """
    if not archive.is_file():
        raise InstallError(f"{archive}: no such file")
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != sha256:
        raise InstallError(
            f"{archive} is not {ARCHIVE}: its sha256 is {actual}, expected {sha256}. "
            "Delete it and download it again."
        )


def read_archive(archive: Path) -> dict[str, bytes]:
    """Return {path below ARCHIVE_ROOT: contents}, without unpacking anything to disk.

    Raises:
        InstallError: the archive has a link, a device, or a path that leads out of ARCHIVE_ROOT.
    """
    files = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isdir():
                continue
            name = member.name
            if (
                not member.isfile()
                or not name.startswith(ARCHIVE_ROOT)
                or ".." in PurePosixPath(name).parts
                or "\\" in name
            ):
                raise InstallError(f"{archive}: unsafe member {name!r}")
            files[name.removeprefix(ARCHIVE_ROOT)] = tar.extractfile(member).read()
    return files


def select_files(source: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of the archive's packages under their paths in the wheel.

    Raises:
        InstallError: a package is missing.
    """
    wheel = {}
    for folder, target in PACKAGES.items():
        names = [name for name in source if name.startswith(folder)]
        if f"{folder}__init__.py" not in names:
            raise InstallError(f"the archive has no {folder}__init__.py")
        wheel.update({target + name.removeprefix(folder): source[name] for name in names})
    return wheel


def apply_fixes(files: dict[str, bytes], fixes: dict[str, list[Fix]]) -> None:
    """Apply all replacements to `files`, in place.

    Raises:
        InstallError: a replacement does not match exactly.
    """
    for reason, group in fixes.items():
        for fix in group:
            if fix.path not in files:
                raise InstallError(f"{fix.path}: no such file to fix ({reason})")
            text = files[fix.path].decode("utf-8")
            found = text.count(fix.old)
            if found != fix.count:
                raise InstallError(
                    f"{fix.path}: expected {fix.count} times, found {found} times: {fix.old!r} "
                    f"({reason}). This source is not Detectron2 0.6 as released."
                )
            files[fix.path] = text.replace(fix.old, fix.new).encode("utf-8")


def write_wheel(files: dict[str, bytes], license_text: bytes, folder: Path) -> Path:
    """Write `files` as a wheel into `folder`, and return its path."""
    info = f"detectron2-{VERSION}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 0.6, pure Python, with fixes for today's libraries (rmonet_d2)",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.10",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS),
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: rmonet_d2", "Root-Is-Purelib: true"]
    contents = {
        **files,
        f"{info}/LICENSE": license_text,
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": "\n".join([*wheel, "Tag: py3-none-any", ""]).encode(),
        f"{info}/top_level.txt": b"detectron2\n",
    }
    record = []
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record.append(f"{name},sha256={digest},{len(data)}\n")
    record.append(f"{info}/RECORD,,\n")
    contents[f"{info}/RECORD"] = "".join(record).encode()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            # With a fixed date and mode, the same archive always gives the same wheel.
            entry = zipfile.ZipInfo(name, date_time=(2021, 11, 15, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def build(archive: Path, folder: Path, sha256: str = SHA256, fixes=FIXES) -> Path:
    """Build the fixed wheel from an archive in `folder`, and return its path.

    Raises:
        InstallError: the archive does not match; nothing has been written then.
    """
    check_archive(archive, sha256)
    source = read_archive(archive)
    files = select_files(source)
    apply_fixes(files, fixes)
    files.update({name: text.encode() for name, text in ADDED_FILES.items()})
    return write_wheel(files, source["LICENSE"], folder)


def install(archive: Path | None, force: bool, wheel_dir: Path | None) -> None:
    """Install Detectron2 if necessary, or only build its wheel.

    Args:
        archive: archive to use instead of downloading it.
        force: replace an installed Detectron2.
        wheel_dir: build the wheel into this folder, and install nothing.

    Raises:
        InstallError: this is not possible.
    """
    if wheel_dir is None:
        found, distribution = probe(), installed_wheel()
        if not force and is_kept(found, distribution):
            version = distribution or found["version"]
            print(f"Detectron2 {version} is already installed, and kept: {found['path']}")
            return
        if not found["torch"]:
            raise InstallError("torch is missing: run `pip install -r requirements.lock` first.")
    print(f"Building Detectron2 {VERSION} from {archive or ARCHIVE}", flush=True)
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        folder = Path(temporary)
        archive = archive or download(folder)
        if wheel_dir is not None:
            print(f"Wrote {build(archive, wheel_dir)}")
            return
        wheel = build(archive, folder)
        run_pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    found = probe()
    if not is_kept(found, installed_wheel()):
        raise InstallError(
            f"Detectron2 {VERSION} was installed, but {sys.executable} does not find it."
        )
    print(f"Installed Detectron2 {VERSION}: {found['path']}")


def main() -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, help=f"use this file (default: download {ARCHIVE})")
    parser.add_argument("--force", action="store_true", help="replace an installed Detectron2")
    parser.add_argument("--wheel-dir", type=Path, help="only build the wheel, into this folder")
    arguments = parser.parse_args()
    try:
        install(arguments.archive, arguments.force, arguments.wheel_dir)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
