import json

import pytest

from rmonet_d2.visualization.scenes import select_records, worst_scenes

RECORDS = [{"image_id": 10 + i} for i in range(5)]


def test_worst_scenes_come_first(tmp_path):
    path = tmp_path / "figures.json"
    aris = [0.9, None, 0.1, 0.5]
    path.write_text(json.dumps([{"image_id": 10 + i, "ari": a} for i, a in enumerate(aris)]))
    assert worst_scenes(str(path), 2) == {12: 0.1, 13: 0.5}
    with pytest.raises(FileNotFoundError, match="eval-only"):
        worst_scenes(str(tmp_path / "none.json"), 2)


def test_records_are_selected():
    assert select_records(RECORDS, 2) == RECORDS[:2]
    assert select_records(RECORDS, 2, indices=[4, 0]) == [RECORDS[4], RECORDS[0]]
    assert select_records(RECORDS, 2, ids={13: 0.1, 11: 0.2}) == [RECORDS[3], RECORDS[1]]
    with pytest.raises(ValueError, match=r"\[5\].*0 to 4"):
        select_records(RECORDS, 2, indices=[1, 5])
    with pytest.raises(ValueError, match="99"):
        select_records(RECORDS, 2, ids={99: 0.0})
