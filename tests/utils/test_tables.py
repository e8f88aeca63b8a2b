from rmonet_d2.utils.tables import table


def test_table_lines_up():
    text = table(["name", "value"], [["a", 1.23456], ["long name", 12345.6], ["n", 3]])
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1.23" in lines[2] and "12346" in lines[3] and "| 3 " in lines[4]


def test_text_stays_as_it_is():
    text = table(["name", "value"], [["0.90", 0.90], ["1e3", True], ["a|b", None]])
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines()]
    assert rows[2:] == [["0.90", "0.9"], ["1e3", "True"], [r"a\|b", "None"]]


def test_a_table_without_rows_is_its_header():
    assert table(["name", "value"], []).splitlines()[0].split() == ["|", "name", "|", "value", "|"]
