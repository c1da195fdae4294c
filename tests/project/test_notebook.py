"""Test that the notebook runs from top to bottom and shows pictures and texts."""

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat")


@pytest.mark.slow
def test_D09_notebook_runs_from_top_to_bottom(monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    text = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    assert "backbone.blocks" in text
    assert "bar 1" in text


def test_notebook_is_stored_without_outputs():
    book = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)
