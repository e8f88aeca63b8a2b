"""Programs that are interrupted at a known point of their work, however fast the machine is."""

import sys

_CODE = """
import os, runpy, sys
from tqdm import tqdm

program, updates, number, *arguments = sys.argv[1:]
update, calls = tqdm.update, []

def stop_or_update(bar, n=1):
    calls.append(n)
    if len(calls) == int(updates):
        os.kill(os.getpid(), int(number))
    return update(bar, n)

tqdm.update = stop_or_update
sys.argv = [program, *arguments]
runpy.run_path(program, run_name="__main__")
"""


def stopped(program, updates, number):
    """The start of a command line: a program that gets a signal as its progress bar is updated.

    Args:
        program: a Python file.
        updates: the update, counted from 1, that the signal precedes.
        number: of the signal.
    """
    return [sys.executable, "-c", _CODE, str(program), str(updates), str(int(number))]
