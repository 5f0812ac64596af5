"""Running etl.ipynb from top to bottom; `python tests/notebook.py` saves it so, and the picture of the README."""

import base64
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "etl.ipynb"
PICTURE = ROOT / "data/questions/plays_by_hour_and_weekday.png"


def read(path=NOTEBOOK):
    return nbformat.read(path, as_version=4)


def joined(outputs):
    """A cell's outputs, with what it printed in one go as one: where the kernel cuts it into messages is chance."""
    whole = []
    for output in outputs:
        if whole and output.output_type == "stream" and output.get("name") == whole[-1].get("name"):
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def executed(notebook, folder=ROOT):
    """A notebook, run in a folder, with its outputs; what a machine or a run alone puts there is left out."""
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "SPARKIFY_CLASS_ARCHIVE": "off"})  # else the first run says that it leaves one
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def pictures(notebook):
    """{id of a cell: [PNG, …]} of the outputs."""
    return {
        cell.id: [base64.b64decode(output.data["image/png"]) for output in shown]
        for cell in notebook.cells
        if (shown := [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})])
    }


if __name__ == "__main__":
    done = executed(read())
    nbformat.write(done, NOTEBOOK)
    PICTURE.write_bytes(pictures(done)["heat-map"][0])
