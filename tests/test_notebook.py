"""etl.ipynb runs from top to bottom, without an error or a warning, and shows what it was committed with."""

import notebook
from nbformat.v4 import new_output

README = (notebook.ROOT / "README.md").read_text(encoding="utf-8")


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
