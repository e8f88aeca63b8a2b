"""The report in a headless browser: it sorts, filters and enlarges, at the width of a phone too."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rmonet_d2.discovery import pictures
from rmonet_d2.discovery.report import write_report
from rmonet_d2.discovery.run import overlay_name

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Reports errors, uses each control, and writes what is seen into the page.
SCRIPT = """<script>
const cards = () => Array.from(document.querySelectorAll(".card")).filter((c) => !c.hidden);
const names = () => cards().map((c) => c.dataset.name);
const set = (id, value) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event("input"));
  return names();
};
const seen = { start: names(), count: set("sort", "count"), fewest: set("sort", "-count") };
seen.doubtful = set("show", "doubtful");
set("show", "all");
seen.search = set("search", "B.PNG");
set("search", "");
document.querySelector(".card button").click();
seen.open = document.getElementById("large").open;
seen.large = document.querySelector("#large p").textContent;
document.getElementById("large").click();
seen.closed = !document.getElementById("large").open;
seen.width = document.documentElement.scrollWidth;
seen.errors = window.failures;
document.title = JSON.stringify(seen);
</script>"""
CATCH = """<script>
window.failures = [];
addEventListener("error", (event) => failures.push(event.message));
</script>"""


def record(name, count, error, doubtful=False):
    one = {"area": 100, "score": 0.9}
    return {
        "key": name, "file": name, "frame": 0, "width": 300, "height": 200, "tiles": 1,
        "full_tiles": 0, "error": error, "doubtful": doubtful, "objects": [one] * count,
        "samples": [],
    }  # fmt: skip


@pytest.fixture
def report(tmp_path):
    records = [record("a.png", 2, 0.01), record("b.png", 5, 0.03), record("<i>.png", 1, 0.2, True)]
    for one in records:
        picture = np.full((200, 300, 3), 120, np.uint8)
        pictures.save(picture, str(tmp_path / overlay_name(one["file"])))
    long = {"a_name_without_any_space_" * 20 + ".txt": ".txt files are not read"}
    facts = [("weights", "w.pth")]
    return write_report(str(tmp_path), records, ["color: gray (equal)"], long, ["a note"], facts)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_controls_work_without_errors_at_phone_width(report, tmp_path):
    html = Path(report).read_text(encoding="utf-8")
    # Headless windows cannot be as narrow as a phone: a frame can.
    page = html.replace("<head>", "<head>" + CATCH).replace("</body>", SCRIPT + "</body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    frame = (
        '<iframe id="f" width="390" height="800" src="page.html"></iframe><script>'
        "f.onload = () => { document.title = f.contentDocument.title; };</script>"
    )
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/frame.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[-500:] + done.stderr[-500:]
    seen = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["start"] == ["<i>.png", "b.png", "a.png"]
    assert seen["count"] == ["b.png", "a.png", "<i>.png"]
    assert seen["fewest"] == ["<i>.png", "a.png", "b.png"]
    assert seen["doubtful"] == ["<i>.png"] and seen["search"] == ["b.png"]
    assert seen["open"] and seen["large"] == "<i>.png" and seen["closed"]
    assert seen["width"] <= 390 and seen["errors"] == []


def test_numbers_and_names_are_in_the_page(report):
    html = Path(report).read_text(encoding="utf-8")
    assert "8 objects in 3 images" in html and "&lt;i&gt;.png" in html and "<i>.png" not in html
    assert "objects per image, median 2" in html and "a note" in html and "color: gray" in html
    assert "reconstruction error, median 0.03" in html
    assert html.count("unlike the training images") == 1
