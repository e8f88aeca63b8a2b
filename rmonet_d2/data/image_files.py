"""Finds the image files in a folder, and reports which files are left out and why."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from PIL import features

from rmonet_d2.data.image_reader import VIDEO_SUFFIXES

# fmt: off
_ALWAYS = [
    ".apng", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
]
# fmt: on
IMAGE_SUFFIXES = tuple(sorted([*_ALWAYS, *([".avif"] if features.check("avif") else [])]))


@dataclass
class Listing:
    """Contents of a folder: sorted ``files``, and ``left_out``, {path: reason}."""

    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def list_folder(
    folder: str | os.PathLike[str], exclude: Iterable[str] = (), videos: bool = False
) -> Listing:
    """List the images in a folder and its subfolders.

    Hidden files and folders are skipped silently. A link to a folder is followed, unless that
    folder is read anyway, because circular links would list images many times.

    Args:
        folder: folder to search.
        exclude: folders to skip, such as the output folder of an earlier run.
        videos: also list video files.
    """
    root = os.fspath(folder)
    suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
    seen = {os.path.realpath(path) for path in exclude}
    listing = Listing()
    for path, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [n for n in sorted(folders) if _follow(os.path.join(path, n), root, listing)]
        for name in names:
            file = os.path.join(path, name)
            reason = "" if name.startswith(".") else _reason_against(file, suffixes)
            if reason:
                listing.left_out[file] = reason
            elif not name.startswith("."):
                listing.files.append(file)
    listing.files.sort()
    return listing


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted paths of all visible image files in a folder and its subfolders."""
    return list_folder(folder).files


def _follow(path: str, root: str, listing: Listing) -> bool:
    """Return whether to read a subfolder here."""
    if os.path.basename(path).startswith("."):
        return False
    if os.path.islink(path) and _is_within(os.path.realpath(path), os.path.realpath(root)):
        listing.left_out[path] = "a link to a folder that is read anyway"
        return False
    return True


def _is_within(path: str, folder: str) -> bool:
    """Return whether one of two real paths contains the other, or both are the same."""
    return os.path.commonpath([path, folder]) in (path, folder)


def _reason_against(file: str, suffixes: tuple[str, ...]) -> str:
    """Return why a file is not read, or "" if it is."""
    if not file.lower().endswith(suffixes):
        suffix = os.path.splitext(file)[1]
        return f"{suffix} files are not read" if suffix else "its name has no suffix"
    try:
        is_file = stat.S_ISREG(os.stat(file).st_mode)
    except OSError as error:
        return f"{error.strerror}"
    return "" if is_file else "not a regular file"
