"""The built site: no warnings, nothing fetched from elsewhere, and questions that find answers."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from doc_pages import DOCS, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.docs
pytest.importorskip("material", reason="the documentation's packages: pip install '.[docs]'")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUESTIONS = {
    "how to prune a YOLO for OpenVINO": "guides/detectors.html",
    "not prunable because reaches graph output": "troubleshooting/not-prunable.html",
    "why no speed-up": "troubleshooting/speed.html",
    "how to keep a layer": "guides/keep.html",
    "how to gate CI": "guides/ci.html",
    "what calibration data to give": "concepts/calibration.html",
    "how to use pictures from a folder": "reference/data.html",
    "which runtime reads packed files": "guides/smaller.html",
    "how to add an operator": "extend/operator.html",
    "how to apply a plan to a fine-tuned sibling": "guides/sibling.html",
}
"""What a user might type into the search, and the page that answers it."""
RESULTS = 3
"""Among how many results the answer has to be."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site: the one that `make docs` built, or built here; warnings are errors."""
    if built := os.environ.get("ONNXPRUNE_DOCS"):
        return ROOT / built
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    wanted = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert not [page for page in wanted if not (site / page).is_file()]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?://[^\" >]+)")
    for page in site.rglob("*.html"):
        assert not fetched.findall(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.findall(r"@import[^;]*https?://|url\(\W?https?://", text), style


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser among {', '.join(BROWSERS)}: apt install chromium")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.goto(f"{address}/index.html")
        yield opened
        browser.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_finds_its_page(page: Page, address: str, question: str) -> None:
    page.goto(f"{address}/index.html?q={question.replace(' ', '+')}")
    page.wait_for_selector(".md-search-result__item", timeout=60_000)
    links = page.eval_on_selector_all(
        ".md-search-result__item > a.md-search-result__link", "all => all.map(a => a.href)"
    )
    first = [link.partition("?")[0].removeprefix(f"{address}/") for link in links[:RESULTS]]
    assert QUESTIONS[question] in first
