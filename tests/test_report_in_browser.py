"""The report in headless Chromium, without a network: by eye, by keyboard, on a phone, by ear.

Needs Debian's packages chromium and chromium-driver. Where CONFORMER_JAX_REQUIRE_CHROMIUM is set,
as in .ci/run, their absence is a failure and not a reason to skip.
"""

import re

import pytest
import report_workdirs as written

from conformer_jax import report
from conformer_jax.reporting import classes, runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return written.write_all(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def address(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(folders, path, num_mistakes=3)
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """The page, freshly opened on a desktop's screen."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    _prefer(browser, "light")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def test_it_opens_from_disk_and_asks_for_nothing_else(opened):
    asked = opened.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name[:40] for name in asked if not name.startswith("data:")] == []
    assert opened.title == "Report: pretrain, linear, finetune, many, study, cv"
    broken = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert opened.execute_script(broken) == 0


PLOTS = """
return [...document.querySelectorAll(".chart")].map((chart) => {
  const [x, y, width, height] = chart.dataset.box.split(" ").map(Number);
  const lines = [...chart.querySelectorAll(".series")];
  const inside = (mark) => {
    const box = mark.getBBox();
    return box.x > x - 3 && box.x + box.width < x + width + 3 &&
      box.y > y - 3 && box.y + box.height < y + height + 3;
  };
  const marks = lines.flatMap((line) => [...line.querySelectorAll("path, circle")]);
  return {
    name: chart.getAttribute("aria-label"),
    seen: chart.getBoundingClientRect().height > 100,
    lines: lines.length,
    drawn: lines.every((line) => line.querySelector("circle") ||
      line.querySelector(".line").getTotalLength() > 10),
    outside: marks.filter((mark) => !inside(mark)).length,
    text: [...chart.querySelectorAll(".axes text")].map((t) => t.textContent),
  };
});
"""


def test_every_plot_has_data_inside_its_axes(opened):
    plots = opened.execute_script(PLOTS)
    assert len(plots) == 36
    for plot in plots:
        assert plot["seen"], plot["name"]
        assert plot["lines"] >= 1, plot["name"]
        assert plot["drawn"], plot["name"]
        assert plot["outside"] == 0, plot["name"]
        assert len(plot["text"]) >= 4, plot["name"]


PLAY = """
const done = arguments[arguments.length - 1];
(async () => {
  const heard = [];
  for (const player of document.querySelectorAll("audio")) {
    await player.play();
    await new Promise((moved) => player.addEventListener("timeupdate", () => {
      if (player.currentTime > 0) moved();
    }));
    const others = [...document.querySelectorAll("audio")].filter((p) => !p.paused).length;
    heard.push([player.duration, player.currentTime, others, player.error]);
  }
  done(heard);
})().catch((error) => done(String(error)));
"""


def test_sounds_play_one_at_a_time(opened):
    heard = opened.execute_async_script(PLAY)
    assert len(heard) == 3
    for duration, time, playing, error in heard:
        assert duration == pytest.approx(1.0)
        assert 0 < time <= 1.0
        assert playing <= 1
        assert error is None


STOPS = """
const reached = window.reached = new Map();
document.addEventListener("focusin", ({ target }) => {
  const style = getComputedStyle(target);
  const box = target.getBoundingClientRect();
  reached.set(target, {
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: box.bottom > 0 && box.top < innerHeight,
  });
});
"""
REACHED = """
const wanted = [...document.querySelectorAll("a[href], audio, summary, .chart, .heat, .scrolling")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !e.matches(".scrolling") || e.scrollWidth > e.clientWidth);
const name = (e) => e.outerHTML.slice(0, 80);
return {
  wanted: wanted.length,
  missed: wanted.filter((e) => !reached.has(e)).map(name),
  bare: [...reached].filter(([, { outlined }]) => !outlined).map(([e]) => name(e)),
  unseen: [...reached].filter(([, { seen }]) => !seen).map(([e]) => name(e)),
};
"""


def test_the_tab_key_reaches_everything_and_shows_where_it_is(opened):
    from selenium.webdriver import ActionChains, Keys

    _show_on_phone(opened)  # where tables must scroll
    opened.execute_script(STOPS)
    for _ in range(8):
        ActionChains(opened, duration=0).send_keys(Keys.TAB * 25).perform()
    found = opened.execute_script(REACHED)
    assert found["wanted"] > 90
    assert found["missed"] == []
    assert found["bare"] == []
    assert found["unseen"] == []


def test_a_chart_tells_its_values_to_the_keyboard_and_to_the_pointer(opened):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    title = "//p[starts-with(normalize-space(.), 'Contrastive accuracy share')]"
    figure = opened.find_element(By.XPATH, f"{title}/..")
    chart, reading = (figure.find_element(By.CSS_SELECTOR, c) for c in (".chart", ".reading"))
    chart.send_keys(Keys.END)
    assert reading.text == "step 12: training 0.6, held out 0.6"
    chart.send_keys(Keys.ARROW_LEFT)
    assert reading.text == "step 11: training 0.5583"
    chart.send_keys(Keys.HOME)
    assert reading.text == "step 1: training 0.1417"
    left_end = -chart.size["width"] // 2 + 2
    ActionChains(opened, duration=0).move_to_element_with_offset(chart, 0, 0).perform()
    middle = int(re.match(r"step (\d+)", reading.text)[1])
    assert 5 <= middle <= 8
    ActionChains(opened, duration=0).move_to_element_with_offset(chart, left_end, 0).perform()
    assert reading.text.startswith("step 1:")


def test_a_heat_map_tells_its_cells_to_the_keyboard(opened, folders):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    counts = classes.confusions(runs.load_predictions(folders[3] / "predictions.npz"))
    heat = opened.find_element(By.CSS_SELECTOR, ".heat")
    reading = opened.find_element(By.CSS_SELECTOR, ".heat-map .reading")
    first = counts[0].nonzero()[0]
    said = []
    for _ in first:
        heat.send_keys(Keys.ARROW_RIGHT)
        said.append(reading.text)
    total = counts[0].sum()
    assert said == [
        f"class 0, {'right' if c == 0 else f'taken for class {c}'}: {counts[0, c]} of {total}"
        for c in first
    ]
    heat.send_keys(Keys.ARROW_DOWN)
    assert reading.text.startswith("class 1, ")


def _prefer(browser, scheme):
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _show_on_phone(browser):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    _show_on_phone(opened)
    opened.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    wide = opened.execute_script("return [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide == [360, 360]
    smallest = opened.execute_script(
        "return Math.min(...[...document.querySelectorAll('.chart')].map("
        "(c) => 11 * c.getBoundingClientRect().width / c.viewBox.baseVal.width))"
    )
    assert smallest > 10  # px, of the ticks' labels


# Text, and the colours behind it blended, against WCAG 2's formula for contrast.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const parse = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const over = (top, bottom) => bottom.map((b, i) => b + (top[i] - b) * top[3] / 255);
const luminance = (rgb) => {
  const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  if (!element) return [255, 255, 255, 255];
  return over(parse(getComputedStyle(element).backgroundColor), background(element.parentElement));
};
const worst = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.matches("script, .skip")) continue;
  const style = getComputedStyle(element);
  const colour = element instanceof SVGElement ? style.fill : style.color;
  let behind = background(element);
  const band = element.matches(".band text") && element.parentElement.querySelector("rect");
  if (band) {
    const [r, g, b] = parse(getComputedStyle(band).fill);
    behind = over([r, g, b, 255 * getComputedStyle(band).opacity], behind);
  }
  const [low, high] = [luminance(parse(colour)), luminance(behind)].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  const kind = `${element.tagName} ${element.className.baseVal ?? element.className} ${colour}`;
  if (!(worst.get(kind) < ratio)) worst.set(kind, ratio);
}
return [...worst];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened, scheme):
    _prefer(opened, scheme)
    ratios = dict(opened.execute_script(CONTRAST))
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(253, 252, 250)", "dark": "rgb(22, 25, 28)"}[scheme]
    assert len(ratios) > 10
    assert {kind: ratio for kind, ratio in ratios.items() if ratio < 4.5} == {}
