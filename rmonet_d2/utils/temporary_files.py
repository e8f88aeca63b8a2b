"""One temporary folder per program, so that a killed one's left-overs go at the next start.

Python's multiprocessing (``pymp-*``) and torch (error files of worker processes) remove their
temporary files at exit, which SIGKILL prevents.
"""

import atexit
import contextlib
import os
import re
import shutil
import socket
import tempfile

# The path of a Unix socket has at most 107 characters, and multiprocessing's have 40 more.
_LONGEST_BASE = 40


def use_own_temporary_folder() -> str | None:
    """Make a folder for this program's temporary files, and remove those of programs that died.

    The folder lies in the usual one for temporary files, is named after the machine and the
    process, and is removed at exit. Child processes use it, too.

    Returns:
        The folder, or None if the usual one is used: on Windows, where a process cannot be looked
        up by its number, and where the usual folder cannot be written or has a long path.
    """
    try:
        base = tempfile.gettempdir()
    except OSError:
        return None
    if os.name != "posix" or len(base) > _LONGEST_BASE:
        return None
    # Containers may share the folder, but not the numbers of their processes.
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:12]
    _remove_left_overs(base, host)
    try:
        folder = tempfile.mkdtemp(prefix=f"rmonet-{host}-{os.getpid()}-")
    except OSError:
        return None
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: str, owner: int) -> None:
    # A forked child must not remove what its parent still uses.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_overs(base: str, host: str) -> None:
    pattern = re.compile(rf"rmonet-{host}-(\d+)-[^/]*")
    try:
        entries = list(os.scandir(base))
    except OSError:
        return
    for entry in entries:
        match = pattern.fullmatch(entry.name)
        if match is None or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            own = entry.stat(follow_symlinks=False).st_uid == os.getuid()
            if own and not _is_alive(int(match[1])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
