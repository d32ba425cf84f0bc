"""A page of `predict` and a map in headless Chromium: by ear, by keyboard, on a phone."""

import numpy as np

from conformer_jax.models.features import FeatureSpec
from conformer_jax.reporting import heard, media, sound_map
from conformer_jax.reporting.player import Event

RATE = 16000
NOISE = (np.random.default_rng(0).normal(size=4 * RATE) * 0.05).astype(np.float32)


def read(start, end):
    return NOISE[round(start * RATE) : round(end * RATE)]


PLAYED = """
const done = arguments[arguments.length - 1];
const sound = document.querySelector("audio");
const head = document.querySelector(".playhead");
document.querySelector("[data-at]").click();
sound.addEventListener("timeupdate", () => {
  if (sound.currentTime < 2.1) return;
  sound.pause();
  setTimeout(() => done([sound.currentTime, parseFloat(head.style.left),
    document.querySelector(".reading").textContent]), 100);
});
"""


def test_the_cursor_runs_with_the_sound_and_keys_and_clicks_move_it(browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    events = [Event(2.0, 3.0, "dog", 0.83), Event(0.5, 1.0, "a very long name of a label", 0.6)]
    found = heard.recording("a.wav", events, 4.0, 4.0, FeatureSpec(), read)
    page = tmp_path / "heard.html"
    page.write_text(heard.recordings("Heard", [found]))
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.scrollingElement.scrollWidth") == 360
    browser.execute_script("document.querySelector('details').open = true")
    time, left, reading = browser.execute_async_script(PLAYED)
    assert 2.1 <= time < 3
    assert abs(left - 25 * time) < 1
    assert reading.endswith("dog 83\u00a0%")
    area = browser.find_element(By.CSS_SELECTOR, ".area")
    assert area.get_attribute("aria-valuetext").endswith("dog 83\u00a0%")
    area.send_keys(Keys.HOME)
    assert area.get_attribute("aria-valuenow") == "0.00"
    area.send_keys(Keys.PAGE_UP)
    assert area.get_attribute("aria-valuenow") == "1.00"
    ActionChains(browser, duration=0).move_to_element(area).click().perform()
    assert abs(float(area.get_attribute("aria-valuenow")) - 2) < 0.05
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    sound = media.small_sound(NOISE[:RATE], RATE)
    points = [
        sound_map.Point(x, y, f"{x}{y}.wav", 0.0, 1.0, "near" if x < 2 else "far", sound)
        for x in range(3)
        for y in range(3)
    ]
    page.write_text(sound_map.page("Map", points, "By hand."))
    browser.get(page.as_uri())
    drawing = browser.find_element(By.CSS_SELECTOR, ".map")
    reading = browser.find_element(By.CSS_SELECTOR, ".sound-map .reading")
    drawing.send_keys(Keys.ARROW_RIGHT)
    drawing.send_keys(Keys.ARROW_RIGHT)
    drawing.send_keys(Keys.ARROW_UP)
    assert reading.text == "near: 11.wav, 0:00.0 to 0:01.0"
    drawing.send_keys(Keys.ENTER)
    playing = "return document.querySelector('audio').src.startsWith('data:audio')"
    assert browser.execute_script(playing)
    browser.find_element(By.CSS_SELECTOR, "[data-label=far]").click()
    assert browser.execute_script("return document.querySelectorAll('.map .dim').length") == 6
    assert browser.get_log("browser") == []
