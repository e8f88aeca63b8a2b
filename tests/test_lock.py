"""requirements.lock: every package has one version and hashes; pip installs no other file."""

import re

from small_model import ROOT


def test_every_package_has_a_version_and_hashes():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) > 80
    for entry in entries:
        first, *rest = [line.strip(" \\") for line in entry.splitlines()]
        assert re.match(r"[A-Za-z0-9._-]+==[0-9][^ ]*( ; .*)?$", first), first
        assert rest, f"{first} has no hash: run make lock"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in rest), first


def test_the_set_up_asks_for_hashes():
    commands = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "install -qq" in line
    ]
    assert len(commands) == 3
    # The third one installs this package itself.
    assert ["--require-hashes" in line for line in commands] == [True, True, False]
