"""The page in a real browser: it opens, answers, fits a phone, and lets no name run anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxprune.report.documents import read_documents
from onnxprune.report.html.page import build
from page_cases import ENTRY, as_json, bench, hostile_documents, run, searched, sweep

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser that is installed on this machine; none is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found)
        yield started
        started.close()


def documents() -> list[Any]:
    names = [(row.name, row.kind) for row in run().groups]
    names += [("weight of it", "weight"), ("other weight", "weight")]
    return [
        as_json(searched()),
        bench(ENTRY.model.name, "small.onnx"),
        sweep(ENTRY.model.name, names),
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name, plain in (("real", documents()), ("hostile", hostile_documents())):
        told = []
        for k, each in enumerate(plain):
            told.append(folder / f"{name}{k}.json")
            told[-1].write_text(json.dumps(each))
        made[name] = folder / f"{name}.html"
        made[name].write_text(build(read_documents(told)), encoding="utf-8")
    return made


class Opened:
    """A page in a context of its own, and everything it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.complaints == []
        assert len(set(self.requests)) == 1, self.requests


def tip(page: Any) -> str:
    page.wait_for_selector("#tip:not([hidden])", timeout=2000)
    return str(page.locator("#tip").text_content())


def hover(page: Any, selector: str) -> str:
    """What the tip says over the first such element, once the page has come to rest."""
    target = page.locator(selector).first
    target.scroll_into_view_if_needed()
    page.evaluate("() => new Promise((done) => setTimeout(done, 100))")
    target.hover()
    return tip(page)


def test_it_opens_and_draws_every_chart(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"]) as page:
        assert page.locator("figure").count() == 6  # cpu searched; cpu and openvino, twice; ratios
        assert page.locator("figure .plot > svg").count() == 6
        assert page.locator("h2").text_content() == ENTRY.model.name
        assert page.locator(".scripted .tools").first.is_visible()


def test_points_and_cells_say_what_they_are(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"], reduced_motion="reduce") as page:
        said = hover(page, "figure[data-chart=pareto] g.chosen")
        assert "macs=70%, chosen" in said
        assert "70 µs (63 µs to 77 µs)" in said
        said = hover(page, ".heat")
        assert "25 % removed\nchange of accuracy, in points: -0.30" in said
        said = hover(page, "figure[data-chart=ecdf] rect[tabindex]")
        assert "% of runs within" in said
        assert "(0.500x)" in said
        page.mouse.move(2, 2)
        assert not page.locator("#tip").is_visible()


def test_the_keyboard_reaches_what_the_pointer_does(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"], reduced_motion="reduce") as page:
        page.locator("figure[data-chart=pareto] g.dense").first.focus()
        assert "the original" in tip(page)
        page.keyboard.press("Escape")
        assert not page.locator("#tip").is_visible()
        slider = page.locator("figure[data-chart=ecdf] rect[tabindex]").first
        slider.focus()
        before = int(slider.get_attribute("aria-valuenow"))
        page.keyboard.press("ArrowUp")
        page.keyboard.press("PageUp")
        assert int(slider.get_attribute("aria-valuenow")) == before + 11
        for name in ("button", "select", "input", "summary"):
            assert page.locator(name).first.evaluate("each => each.tabIndex") == 0


def visible(page: Any, table: str) -> list[str]:
    found: list[str] = page.locator(f"{table} tbody tr:visible").evaluate_all(
        "rows => rows.map((row) => row.dataset.name)"
    )
    return found


def test_rows_can_be_filtered_and_sorted(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"]) as page:
        tools = page.locator(".tools").filter(has_text="Filter targets")
        everything = visible(page, ".heat-map")
        tools.locator("input").fill("OTHER")
        assert visible(page, ".heat-map") == ["other weight"]
        assert tools.locator("output").text_content() == f"1 of {len(everything)}"
        tools.locator("input").fill("")
        tools.locator("[data-filter=kind]").select_option("weight")
        assert visible(page, ".heat-map") == ["weight of it", "other weight"]
        tools.locator("[data-filter=kind]").select_option("")
        tools.locator("[data-filter=order]").select_option("most")
        assert visible(page, ".heat-map")[:2] == ["the block", "other weight"]
        tools.locator("[data-filter=order]").select_option("least")
        assert visible(page, ".heat-map")[-1] == "the block"
        tools.locator("[data-filter=order]").select_option("network")
        assert visible(page, ".heat-map") == everything
        assert page.locator(".heat").first.text_content() == "-0.30"
        tools.locator("[data-filter=measure]").select_option("kl")
        assert page.locator(".heat").first.text_content() == "1"
        groups = page.locator(".tools").filter(has_text="Filter groups")
        groups.locator("input").fill("no such group")
        assert visible(page, ".groups") == []


def test_couplings_show_one_group_with_all_that_leaves(
    browser: Any, pages: dict[str, Path]
) -> None:
    with Opened(browser, pages["real"], reduced_motion="reduce") as page:
        for row in run().couplings:
            page.get_by_role("combobox", name="Group").select_option(label=row.group)
            assert page.locator(".couplings details:visible").count() == 1
            cards = page.locator(".card:visible code:first-child").all_text_contents()
            assert sorted(cards) == sorted(cut.tensor for cut in row.slices)
        page.locator(".groups a").first.click()
        assert page.get_by_role("combobox", name="Group").evaluate(
            "choice => choice.selectedOptions[0].text"
        ) == (run().groups[0].name)


def test_light_and_dark(browser: Any, pages: dict[str, Path]) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    for scheme in ("light", "dark"):
        with Opened(browser, pages["real"], color_scheme=scheme) as page:
            first = page.evaluate(ground)
            assert (first == "rgb(255, 255, 255)") == (scheme == "light")
            page.locator("#theme").click()
            second = page.evaluate(ground)
            assert first != second
            page.reload()
            assert page.evaluate(ground) == second, "the choice is kept"


def luminance(colour: str) -> float:
    parts = [float(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    with Opened(browser, pages["real"], color_scheme=scheme) as page:
        ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for name in ("body", ".soft", "p", "td", "thead th", "a", ".good", "summary", "nav a"):
            colour = page.locator(name).first.evaluate("each => getComputedStyle(each).color")
            light, dark = sorted((luminance(colour), ground), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, name  # WCAG 2.2, level AA


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_stand_out_on_every_warmth(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    with Opened(browser, pages["real"], color_scheme=scheme) as page:
        colours = page.locator(".heat").first.evaluate(
            """(cell) => {
              const canvas = document.createElement("canvas");
              const paint = canvas.getContext("2d", { willReadFrequently: true });
              const rgb = (colour) => {
                paint.fillStyle = colour;
                paint.fillRect(0, 0, 1, 1);
                return `rgb(${paint.getImageData(0, 0, 1, 1).data.slice(0, 3).join(", ")})`;
              };
              return Array.from({ length: 41 }, (_, k) => {
                cell.style.setProperty("--heat", k / 40);
                cell.classList.toggle("hot", k / 40 > 0.65);
                const style = getComputedStyle(cell);
                return [rgb(style.color), rgb(style.backgroundColor)];
              });
            }"""
        )
        for ink, ground in colours:
            light, dark = sorted(map(luminance, (ink, ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.4, (ink, ground)


@pytest.mark.parametrize("name", ["real", "hostile"])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    with Opened(browser, pages[name], viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("figure svg").first.bounding_box()["width"] <= 360


WIDER = """() => {
  const room = document.documentElement.clientWidth + 0.5;
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.getClientRects().length && !each.closest(".unseen"))
    .filter((each) => each.getBoundingClientRect().right > room
      || (!each.closest("svg") && each.scrollWidth > Math.max(each.clientWidth, 1) + 1))
    .filter((each) => each instanceof SVGElement
      || getComputedStyle(each).display !== "inline" && each.tagName !== "SELECT")
    .map((each) => `${each.tagName}.${each.className}: ${each.textContent.slice(0, 60)}`);
}"""
"""What stands out of the page, or has more in it than it shows."""
OUTSIDE = """() => [...document.querySelectorAll("figure svg text")].filter((text) => {
  const box = text.getBoundingClientRect(), view = text.ownerSVGElement.getBoundingClientRect();
  return box.left < view.left - 1 || box.right > view.right + 1
    || box.top < view.top - 1 || box.bottom > view.bottom + 1;
}).map((text) => text.textContent)"""


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", ["real", "hostile"])
def test_nothing_is_wider_than_the_page(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    with Opened(browser, pages[name], viewport={"width": width, "height": 900}) as page:
        page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
        assert page.evaluate(WIDER) == []
        assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("name", ["real", "hostile"])
def test_nothing_is_wider_than_paper(browser: Any, pages: dict[str, Path], name: str) -> None:
    with Opened(browser, pages[name], viewport={"width": 688, "height": 970}) as page:
        page.emulate_media(media="print")
        assert page.evaluate(WIDER) == []


def test_it_prints_all_rows_and_no_controls(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"], color_scheme="dark") as page:
        page.emulate_media(media="print")
        for control in ("nav", "#theme", ".tools", ".copy"):
            assert not page.locator(control).first.is_visible()
        boxes = page.locator(".scroll")
        assert boxes.count() > 5
        assert boxes.evaluate_all(
            "all => all.every((each) => each.scrollHeight <= each.clientHeight + 1)"
        )
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert page.pdf().startswith(b"%PDF")


def test_no_name_runs_anything(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["hostile"], reduced_motion="reduce") as page:
        assert page.locator("img").count() == 0
        for group in run().groups:
            choice = page.get_by_role("combobox", name="Group")
            label = next(
                text for text in choice.locator("option").all_text_contents() if group.name in text
            )
            choice.select_option(label=label)
        for selector in ("figure g[tabindex]", ".heat", "figure rect[tabindex]"):
            hover(page, selector)
        assert page.evaluate("window.broken") is None
        assert page.locator("img").count() == 0


def test_without_scripts_all_tables_are_there(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"], java_script_enabled=False) as page:
        assert not page.locator(".tools").first.is_visible()
        assert page.locator(".groups tbody tr").count() == len(run().groups)
        assert page.locator(".groups tbody tr").first.is_visible()
        assert page.locator(".heat").first.is_visible()
        page.locator(".couplings summary").first.click()
        assert page.locator(".couplings details td").first.is_visible()


def test_commands_are_copied_or_selected(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["real"]) as page:
        page.locator(".copy").first.click()
        page.wait_for_function(
            "['Copied', 'Selected'].includes(document.querySelector('.copy').textContent)"
        )
