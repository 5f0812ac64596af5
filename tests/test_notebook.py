"""etl.ipynb runs from top to bottom, without an error or a warning, and shows what it was committed with."""

import json
from concurrent.futures import ThreadPoolExecutor

import notebook
import pytest
from nbformat.v4 import new_output

README = (notebook.ROOT / "README.md").read_text(encoding="utf-8")


def shows(cells):
    """{id of a cell: the kinds of its outputs, and what it prints}."""
    return {
        cell.id: [output.get("text") or sorted(output["data"]) for output in cell.get("outputs", [])] for cell in cells
    }


def test_what_the_kernel_cut_into_messages_is_one_output():
    printed, warned, shown = (
        [new_output("stream", name="stdout", text=text) for text in ("a row", "\n", "more\n")],
        new_output("stream", name="stderr", text="no Java\n"),
        new_output("display_data", {"text/plain": "a table"}),
    )
    whole = notebook.joined([*printed[:2], shown, printed[2], warned])
    assert [output.get("text") for output in whole] == ["a row\n", None, "more\n", "no Java\n"]


def assert_quiet(cells):
    """No error, and nothing on standard error but that the package's Java is used."""
    for cell in cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", output
            if output.get("name") == "stderr":
                assert output.text.startswith("no Java"), f"{cell.id}: {output.text}"
                assert output.text.count("\n") == 1


def assert_pictures(run):
    """Each cell that draws gives one picture that isn't blank."""
    drawing = [cell.id for cell in run.cells if "plt.show()" in cell.source]
    found = notebook.pictures(run)
    assert list(found) == drawing
    assert len(drawing) >= 10
    for name, pngs in found.items():
        assert [png[:8] for png in pngs] == [b"\x89PNG\r\n\x1a\n"], name
        assert len(pngs[0]) > 5_000, name


def test_it_is_committed_with_its_outputs_and_nothing_of_a_machine():
    committed = notebook.read()
    assert_quiet(committed.cells)
    assert_pictures(committed)
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert all(not cell.metadata for cell in committed.cells)
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert committed.metadata["language_info"] == {"name": "python"}


def test_the_readme_has_its_picture():
    assert f"]({notebook.PICTURE.relative_to(notebook.ROOT)})" in README
    assert notebook.pictures(notebook.read())["heat-map"] == [notebook.PICTURE.read_bytes()]


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


@pytest.mark.long
@pytest.mark.parametrize("name", ["sample", "other"])
def test_it_runs_without_a_warning_and_draws_every_picture(runs, name):
    assert_quiet(runs[name].cells)
    assert_pictures(runs[name])


@pytest.mark.long
def test_it_shows_what_was_committed(runs):
    run = runs["sample"]
    loud = {cell.id for cell in run.cells if any(o.get("name") == "stderr" for o in cell.get("outputs", []))}
    shown, committed = (shows(cells) for cells in (run.cells, notebook.read().cells))
    assert {name: outputs for name, outputs in shown.items() if name not in loud} == {
        name: outputs for name, outputs in committed.items() if name not in loud
    }


@pytest.mark.long
def test_it_shows_other_data_that_one_cell_names(runs):
    assert shows(runs["other"].cells)["write"] == ["1 of 3 plays have a song of the catalogue\n"]
