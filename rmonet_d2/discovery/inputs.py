"""The files that a run works through."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rmonet_d2.data.image_files import IMAGE_SUFFIXES, list_folder
from rmonet_d2.data.image_reader import VIDEO_SUFFIXES, printable
from rmonet_d2.utils.errors import InputError


@dataclass
class Inputs:
    """Files to read and files that are left out.

    Attributes:
        root: the folder that names in the results are relative to.
        files: paths, in order.
        left_out: {name: reason}.
    """

    root: str
    files: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    def name(self, path: str) -> str:
        """The name of a file in the results: relative to the root, printable, with slashes."""
        return Path(printable(os.path.relpath(path, self.root))).as_posix()


def list_inputs(inputs: Iterable[str], output: str = "") -> Inputs:
    """The image and video files that are named, or lie in the named folders and their subfolders.

    Args:
        inputs: files and folders.
        output: the output folder, which is left out where it lies inside an input folder.

    Raises:
        InputError: a path that does not exist, or no image at all.
    """
    inputs = list(inputs)
    files: list[str] = []
    left_out: dict[str, str] = {}
    for name in inputs:
        if os.path.isdir(name):
            listing = list_folder(name, exclude=[output] if output else [], videos=True)
            files += listing.files
            left_out |= listing.left_out
        elif os.path.lexists(name):
            files.append(name)
        else:
            raise InputError(f"--input {printable(name)}: no such file or folder.")
    files = list(dict.fromkeys(files))
    if not files:
        raise InputError(
            f"--input {' '.join(map(printable, inputs))}: no images there; files ending in "
            f"{', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)} are read."
        )
    folders = [os.path.abspath(n if os.path.isdir(n) else os.path.dirname(n)) for n in inputs]
    found = Inputs(os.path.commonpath(folders), files)
    found.left_out = {found.name(path): reason for path, reason in left_out.items()}
    return found


def check_output(folder: str) -> None:
    """Make the output folder.

    Raises:
        InputError: it cannot be made, because it is a file, for example.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--output {printable(folder)} is a file: name a folder.") from None
    except OSError as error:
        raise InputError(
            f"--output {printable(folder)} cannot be made: {error.strerror}."
        ) from None
