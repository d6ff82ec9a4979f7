import json

import pytest

from benchmarks.report import END, Figure, at_least, at_most, beginning, machine, table, under, write

FIGURES = [
    Figure("fast", 1.75, "", at_least(1.7), (1.5, 1.9)),
    Figure("late", 25.0, "ms", under(25), detail={"viewer_ms": 24.0}),
    Figure("lost", 0.0, "frames", at_most(0)),
    Figure("absent", None, "frames/s", note="no GPU"),
]


def test_aims_are_met_or_not():
    assert [figure.met for figure in FIGURES] == [True, False, True, None]
    assert Figure("none", None, "", at_least(1)).met is False


def test_the_table_names_value_spread_aim_and_verdict():
    lines = table(FIGURES).splitlines()[2:]
    assert lines[0] == "| `fast` | 1.75 | 1.5 to 1.9 | >= 1.7 | yes |"
    assert lines[1] == "| `late` | 25 ms |  | < 25 | no |"
    assert lines[3] == "| `absent` | no GPU |  |  |  |"


@pytest.mark.parametrize("times", [1, 2])
def test_the_document_keeps_its_prose_however_often_the_table_is_written(tmp_path, times):
    document, results = tmp_path / "benchmarks.md", tmp_path / "results" / "edge.json"
    document.write_text(f"before\n{beginning('make bench-x')}\nold\n{END}\nafter\n")
    for _ in range(times):
        write(FIGURES, machine(), results=results, command="make bench-x", document=document, seconds=1.0)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n")
    assert text.count("`fast`") == 1 and "old" not in text
    content = json.loads(results.read_text())
    assert content["figures"]["fast"]["met"] is True and content["machine"]["cores"] >= 1
