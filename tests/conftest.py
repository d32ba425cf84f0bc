"""Compilations are cheap, and shared by all tests of a run, whichever process they run in.

Most of the suite's time was XLA compiling toy programs: again in every worker and in every command
that a test starts, and with optimizations that pay in no program that runs a dozen steps.
tests/kill_and_resume.py runs what users run.
"""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

import pytest

if "XLA_FLAGS" not in os.environ:  # a quarter of the time to compile
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if importlib.metadata.version("jax").startswith("0.10."):  # the flag is gone in 0.11
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit the controller's
    _FOLDER = tempfile.mkdtemp(prefix="conformer_jax_tests_")
    atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# Files that take minutes begin first: one of them alone at the end would keep the others waiting.
_LONG = (
    "test_loop.py",
    "test_distributed.py",
    "test_main.py",
    "test_kill_and_resume.py",
    "test_sharding.py",
    "test_damage.py",
    "test_export.py",
)


def pytest_collection_modifyitems(items):
    """Puts the tests of long files first, else as they are."""
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else 99)


@pytest.fixture(scope="module")
def browser():
    """Chromium, with the network off and with its console kept."""
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        _absent("the Python package selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        _absent("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "mute-audio",
        "autoplay-policy=no-user-gesture-required",
        "window-size=1280,900",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        chrome.set_script_timeout(60)
        chrome.execute_cdp_cmd("Network.enable", {})
        chrome.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield chrome


def _absent(reason):
    if os.environ.get("CONFORMER_JAX_REQUIRE_CHROMIUM"):
        pytest.fail(reason)
    pytest.skip(reason)
