"""The exported page in headless Chromium: a file goes in, the model's tags come out.

CONFORMER_JAX_ONNXRUNTIME_WEB names the folder of the npm package onnxruntime-web (docs/export.md);
needs Debian's chromium and chromium-driver, too. Skipped without: the package is 33 MB.
"""

import functools
import http.server
import os
import shutil
import threading
import time

import numpy as np
import pytest
import soundfile
from inference.conftest import NAMES, toy

import conformer_jax
from conformer_jax import export
from conformer_jax.training import model_file

RUNTIME = os.environ.get("CONFORMER_JAX_ONNXRUNTIME_WEB")
pytestmark = pytest.mark.skipif(
    not (RUNTIME and shutil.which("chromium") and shutil.which("chromedriver")),
    reason="CONFORMER_JAX_ONNXRUNTIME_WEB is not set, or there is no chromium",
)


@pytest.fixture
def server(tmp_path):
    """The address of a page written by the command, served as the docs say."""
    model_file.save(tmp_path / "m.safetensors", *toy())
    arguments = ["--format=onnx", f"--output={tmp_path}/m.onnx", f"--page={tmp_path}/page"]
    arguments.append(f"--onnxruntime-web={RUNTIME}")
    assert export.main([str(tmp_path / "m.safetensors"), *arguments]) == 0
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "page")
    )
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()


@pytest.fixture
def chrome():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
        "autoplay-policy=no-user-gesture-required",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as found:
        yield found


def wait(chrome, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(chrome, 60).until(condition)


def test_a_file_and_the_microphone_are_tagged(server, chrome, tmp_path):
    audio = np.random.default_rng(0).normal(size=40000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", audio, 16000, "FLOAT")
    status = lambda: chrome.find_element("id", "status").text
    rows = lambda: [row.text for row in chrome.find_elements("css selector", "#heard tr")]
    chrome.get(server)
    wait(chrome, lambda _: status() == "Ready.")
    chrome.find_element("id", "file").send_keys(str(tmp_path / "a.wav"))
    wait(chrome, lambda _: status() == "Done: a.wav")
    tags = conformer_jax.load(tmp_path / "m.safetensors").tag(audio, 16000, window_s=1.0)
    found = rows()
    assert len(found) == 3
    for text, start, end, shares in zip(
        found, ("0.0", "1.0", "2.0"), ("1.0", "2.0", "2.5"), tags.probabilities[:3], strict=True
    ):
        assert f"{start} to {end}" in text
        if start != "2.0":  # of the last window ours hears the last whole second
            best = shares.argmax()
            assert f"{shares[best]:.2f} {NAMES[best]}" in text
    # A second file ends the first; a file ends the microphone, and one that is none is said to be.
    soundfile.write(tmp_path / "long.wav", np.tile(audio, 40), 16000, "PCM_16")
    (tmp_path / "no.wav").write_text("no sound")
    chrome.find_element("id", "file").send_keys(str(tmp_path / "long.wav"))
    wait(chrome, lambda _: len(rows()) > 3)
    chrome.find_element("id", "file").send_keys(str(tmp_path / "a.wav"))
    wait(chrome, lambda _: status() == "Done: a.wav")
    time.sleep(1)
    assert rows() == found
    chrome.find_element("id", "microphone").click()
    wait(chrome, lambda _: status() == "Listening …")
    chrome.find_element("id", "file").send_keys(str(tmp_path / "no.wav"))
    wait(chrome, lambda _: status().startswith("That did not work"))
    assert chrome.find_element("id", "microphone").text == "listen to the microphone"
    chrome.find_element("id", "microphone").click()
    wait(chrome, lambda _: len(rows()) >= 2)
    chrome.find_element("id", "microphone").click()
    wait(chrome, lambda _: status() == "Ready.")
    assert [e for e in chrome.get_log("browser") if e["level"] == "SEVERE"] == []
