"""The notebook runs from top to bottom, and what it shows fits a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import ROOT

pytestmark = pytest.mark.docs

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    assert not any(each.output_type == "error" for each in outputs)
    assert not any(each.get("name") == "stderr" for each in outputs), outputs
    shown = [each.data for each in outputs if each.output_type == "execute_result"]
    assert shown
    assert all(len(data["text/plain"]) < 2000 for data in shown)
    assert any("text/html" in data for data in shown)


def test_the_notebook_is_kept_without_outputs() -> None:
    """So that a change of it can be read."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
