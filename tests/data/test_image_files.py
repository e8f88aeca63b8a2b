import os

import pytest

from rmonet_d2.data.image_files import list_folder


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.png", "B.JFIF", "sub/c.pgm", "out/overlay.png", ".hidden/d.png", "clip.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(listing, root):
    return [os.path.relpath(file, root) for file in listing.files]


def test_files_left_out_are_named_with_the_reason(photos):
    (photos / "notes.txt").write_text("x")
    (photos / "README").write_text("x")
    os.mkfifo(photos / "pipe.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    listing = list_folder(photos, exclude=[photos / "out"])
    assert names(listing, photos) == ["B.JFIF", "a.png", "sub/c.pgm"]
    reasons = {os.path.basename(file): why for file, why in listing.left_out.items()}
    assert reasons == {
        "clip.mp4": ".mp4 files are not read",
        "notes.txt": ".txt files are not read",
        "README": "its name has no suffix",
        "pipe.png": "not a regular file",
        "gone.png": "No such file or directory",
    }
    assert "clip.mp4" in names(list_folder(photos, videos=True), photos)


def test_links_that_lead_back_list_nothing_twice(photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "e.png").write_bytes(b"x")
    (elsewhere / "again").symlink_to(elsewhere)
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "sub" / "above").symlink_to(tmp_path)
    (photos / "more").symlink_to(elsewhere)
    (photos / "twice").symlink_to(elsewhere)
    listing = list_folder(photos)
    assert names(listing, photos) == [
        "B.JFIF",
        "a.png",
        "more/e.png",
        "out/overlay.png",
        "sub/c.pgm",
    ]
