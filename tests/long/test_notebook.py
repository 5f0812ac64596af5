"""The notebook is run: it shows what was committed, and works with other data."""

import json
from concurrent.futures import ThreadPoolExecutor

import notebook
import pytest
from test_notebook import assert_pictures, assert_quiet


def shows(cells):
    """{id of a cell: the kinds of its outputs, and what it prints}."""
    return {
        cell.id: [output.get("text") or sorted(output["data"]) for output in cell.get("outputs", [])] for cell in cells
    }


@pytest.fixture(scope="module")
def other_input(tmp_path_factory):
    """One user abroad with three plays, one song with letters that few fonts have, and lines that can't be used."""
    folder = tmp_path_factory.mktemp("other")
    song = {"song_id": "S1", "title": "夜 $1 & $2", "artist_id": "A1", "artist_name": "𝄞 $x_1$", "year": 0}
    event = {"page": "NextSong", "userId": "1", "sessionId": 5, "level": "paid", "location": "London, UK"}
    plays = [{**event, "itemInSession": n, "ts": 1600000000000 + n, "song": song["title"]} for n in range(3)]
    plays[1]["artist"] = song["artist_name"]
    for name, lines in {"song_data/A/s.json": [song], "log_data/e.json": [*plays, {"page": "Home"}, []]}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(other_input):
    """The notebook, run as it is, and run with another input in the cell that names it; both at once, to save time."""
    other = notebook.read()
    (cell,) = [cell for cell in other.cells if cell.id == "input"]
    assert 'INPUT = "data"' in cell.source
    cell.source = cell.source.replace('"data"', repr(str(other_input)))
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(["sample", "other"], pool.map(notebook.executed, [notebook.read(), other])))


@pytest.mark.parametrize("name", ["sample", "other"])
def test_it_runs_without_a_warning_and_draws_every_picture(runs, name):
    assert_quiet(runs[name].cells)
    assert_pictures(runs[name])


def test_it_shows_what_was_committed(runs):
    run = runs["sample"]
    loud = {cell.id for cell in run.cells if any(o.get("name") == "stderr" for o in cell.get("outputs", []))}
    shown, committed = (shows(cells) for cells in (run.cells, notebook.read().cells))
    assert {name: outputs for name, outputs in shown.items() if name not in loud} == {
        name: outputs for name, outputs in committed.items() if name not in loud
    }


def test_it_shows_other_data_that_one_cell_names(runs):
    assert shows(runs["other"].cells)["write"] == ["1 of 3 plays have a song of the catalogue\n"]
