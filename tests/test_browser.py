"""The report's page in headless Chromium: it draws, answers the pointer, fits a telephone, asks nobody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import model

from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.report import html
from marginkit.table.writing import write

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
NASTY = "<img src=x onerror=window.hacked=1><script>window.hacked=1<!script>.h5"
READING = "getImageData"  # Chromium's remark on `pixels` below
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install one, or name it in CHROMIUM"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    bad = "</script><script>window.hacked=1</script>"
    for name, seed, better in ((NASTY, 1, 1.0), ("b.h5", 2, 1.2)):
        made = model(300, seed, better, images=True)
        write(made.with_meta({**made.meta, "note": bad}), folder / name)
    study = Study.of_files([folder / NASTY, folder / "b.h5"], Settings())
    html.write(study, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, path):
    """Opens the page; at the end, whatever the console or the network had to say is a failure."""
    trouble, contexts = [], []

    def open_page(width: int = 1200, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: READING in said.text or trouble.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: asked(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn")
        return page

    def asked(url: str) -> None:
        if url.partition("#")[0] != path.as_uri() and not url.startswith(("data:", "blob:")):
            trouble.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def chart_of(page, title: str):
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True)).locator("canvas")


def shown(canvas) -> dict:
    """Where it is on the screen."""
    canvas.scroll_into_view_if_needed()
    return canvas.bounding_box()


def pixels(canvas, colour: tuple[int, int, int]) -> int:
    """How many pixels have exactly that colour."""
    return canvas.evaluate(
        """(canvas, [r, g, b]) => {
            const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let n = 0;
            for (let i = 0; i < d.length; i += 4) n += d[i] == r && d[i + 1] == g && d[i + 2] == b;
            return n;
        }""",
        list(colour),
    )


def test_every_chart_is_drawn_and_the_curves_are_there(opened):
    page = opened()
    canvases = page.locator(".chart canvas")
    assert canvases.count() == page.locator(".chart").count() >= 14
    for norm in ("l2", "linf"):
        curves = chart_of(page, f"Robust accuracy, {norm}")
        assert pixels(curves, BLUE) > 100
        assert pixels(curves, ORANGE) > 100


def test_hovering_tells_what_is_there_and_runs_nothing(opened):
    page = opened()
    box = shown(chart_of(page, "Robust accuracy, l2"))
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    text = tip.inner_text()
    assert "radius" in text
    assert "not broken" in text
    assert "certified" in text
    assert NASTY[:30] in text
    assert "certified: b.h5" in text
    assert "undefined" not in text
    box = shown(chart_of(page, "Margins by layer, l2"))
    for i in range(40):  # over both models' boxes, the badly named one's too
        page.mouse.move(box["x"] + box["width"] * (0.15 + i * 0.02), box["y"] + box["height"] * 0.5)
    assert page.evaluate("window.hacked") is None


def test_names_are_text_not_markup(opened):
    page = opened()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.get_by_text(NASTY).count() >= 2


def test_a_telephone_needs_no_sideways_scrolling(opened):
    page = opened(width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for canvas in page.locator(".chart canvas").all():
        assert canvas.bounding_box()["width"] <= 360


def test_charts_follow_the_window(opened):
    page = opened()
    canvas = chart_of(page, "Robust accuracy, l2")
    wide = canvas.bounding_box()["width"]
    page.set_viewport_size({"width": 480, "height": 900})
    page.wait_for_function(
        f"document.querySelector('.chart canvas').getBoundingClientRect().width < {wide - 50}"
    )


def test_dark_and_light(opened):
    def background(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = opened(), opened(scheme="dark")
    assert background(light) == "rgb(255, 255, 255)"
    assert background(dark) == "rgb(21, 24, 28)"
    assert pixels(chart_of(dark, "Robust accuracy, l2"), BLUE) == 0, "lighter colours on dark"
    light.get_by_role("button", name="Dark or light").click()
    light.wait_for_function("document.documentElement.dataset.drawn == 'dark'")
    assert background(light) == "rgb(21, 24, 28)"


def test_pictures_are_there(opened):
    page = opened()
    images = page.locator(".exhibit img")
    assert images.count() > 30
    assert images.evaluate_all("all => all.every(image => image.naturalWidth > 0 && image.alt)")


def test_without_scripts_the_words_and_tables_are_there(browser, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_text("This compares two checkpoints").count() == 1
    assert page.locator("table").count() >= 5
    context.close()


CONTRAST = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const rgb = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  } return [255, 255, 255]; };
  const low = [];
  for (const e of document.body.querySelectorAll("*")) {
    const text = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.closest("script, svg")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.className}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(low)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(opened, scheme):
    """AA of WCAG 2.2 (1.4.3): 4.5 to 1, for every visible text."""
    page = opened(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(CONTRAST) == []


def test_the_keyboard_reaches_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("document.documentElement.dataset.drawn == 'dark'")
    reachable = "e => e.tabIndex >= 0"
    assert page.locator("a, button, summary, .wide").evaluate_all(f"all => all.every({reachable})")


def test_a_figure_is_downloaded_as_svg(opened):
    page = opened()
    button = page.get_by_role("button", name="Download Robust accuracy, l2 as SVG")
    with page.expect_download() as downloading:
        button.click()
    text = Path(downloading.value.path()).read_text()
    assert text.startswith("<svg")
    assert "robust accuracy" in text


def test_the_summary_is_first_and_prints(opened):
    page = opened()
    assert page.locator("main > section").first.get_attribute("id") == "summary"
    assert page.locator("#summary").get_by_text("Verified, attacked, open").count() == 1
    page.emulate_media(media="print")
    assert not page.locator("#theme").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_picture_has_a_place_and_its_bracket(opened):
    page = opened()
    exhibits = page.locator(".exhibit")
    anchors = exhibits.evaluate_all("all => all.map(e => e.id)")
    assert len(set(anchors)) == len(anchors) > 5
    links = page.locator("tbody th a").evaluate_all("all => all.map(a => a.hash.slice(1))")
    assert set(links) == set(anchors)
    assert "crown.l2" in exhibits.first.inner_html()
