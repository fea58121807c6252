"""The panel in a real browser: JupyterLab, Chromium, a user's hands.

Needs Debian's `chromium` (no browser is downloaded). Screenshots are kept in
`outputs/browser/`, to be looked at.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "outputs" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "only-for-this-test"
MINUTE = 60_000  # milliseconds, as Playwright counts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium here: `apt install chromium` brings one"
    ),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


NOTEBOOK = """
from dataclasses import replace

from helpers import config, data, panel, plotting, systems, training

settings = config.start()
tiles = data.load_tiles(settings)
plotting.use_style()
runs = []
for filters in (4, 8):
    network = systems.Network(filters=filters, depth=2)
    row = replace(systems.get("lavinama-unet"), name=f"unet-{filters}", network=network)
    row = row.within(config.Budget(6, 64, batch_size=4))
    runs.append(training.fit(row, tiles, 0, settings, verbose=0))
panel.compare(runs, tiles, settings)
"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab over a notebook that trains two networks and compares them."""
    code = nbformat.v4.new_code_cell(NOTEBOOK.strip())
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[code], metadata=kernel)
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    (tmp_path / "helpers").symlink_to(ROOT / "helpers")
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)  # cells out of sight are to be there all the same
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    port = free_port()
    environment = os.environ | {
        "SALT_PROFILE": "smoke",
        "SALT_DATA_DIR": "synthetic",
        "SALT_OUTPUT_DIR": str(tmp_path / "outputs"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--LabApp.user_settings_dir={tmp_path / 'settings'}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--notebook-dir={tmp_path}"]
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}/lab"
            end = time.monotonic() + 60
            while not answers(f"http://127.0.0.1:{port}/api?token={TOKEN}"):
                words = (tmp_path / "lab.log").read_text()
                assert server.poll() is None and time.monotonic() < end, words
                time.sleep(0.2)
            yield f"{address}/tree/panel.ipynb?token={TOKEN}"
        finally:
            server.terminate()
            server.wait(30)


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture
def page():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1300})
        page.set_default_timeout(MINUTE)
        yield page
        shoot(page, "at-the-end")
        browser.close()


def shoot(panel, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    panel.screenshot(path=SHOTS / f"{name}.png")


def slider(panel, name):
    row = panel.locator(".widget-slider", has=panel.page.get_by_text(name, exact=True))
    return row.locator(".noUi-handle")


def push(panel, name, key, times):
    """Move a slider with the keyboard."""
    handle = slider(panel, name)
    handle.focus()
    for _ in range(times):
        handle.press(key)


def until_changed(read, before):
    """Wait until what is read differs; returns it."""
    end = time.monotonic() + 60
    while (now := read()) == before:
        assert time.monotonic() < end, "nothing has changed"
        time.sleep(0.1)
    return now


def test_user_compares_looks_chooses_and_trains(lab, page):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(lab)
    page.get_by_text("| Idle").wait_for()  # the kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    panel = page.locator(".jp-OutputArea-output .widget-vbox").filter(
        has=page.get_by_text("threshold", exact=True)
    ).first  # fmt: skip
    panel.wait_for(timeout=5 * MINUTE)
    panel.scroll_into_view_if_needed()
    picture = panel.locator("img:visible").first
    picture.wait_for()
    shoot(panel, "1-systems")

    headline = panel.get_by_text(re.compile(r"unet-\d scores \d\.\d{4} on")).first
    before, drawn = headline.inner_text(), picture.get_attribute("src")
    push(panel, "threshold", "ArrowLeft", 20)
    until_changed(headline.inner_text, before)
    until_changed(lambda: picture.get_attribute("src"), drawn)

    panel.get_by_role("tab", name="Tiles").click()
    tile = panel.locator("img:visible").first
    tile.wait_for()
    shoot(panel, "2-tiles")
    shown = tile.get_attribute("src")
    page_number = panel.get_by_label("page")
    page_number.press("ArrowUp")
    page_number.press("Enter")
    shown = until_changed(lambda: tile.get_attribute("src"), shown)
    push(panel, "threshold", "ArrowLeft", 5)
    until_changed(lambda: tile.get_attribute("src"), shown)

    panel.get_by_role("tab", name="What if").click()
    score = panel.get_by_text(re.compile(r"^score \d")).first
    score.wait_for()
    for name in ("unet-4", "unet-8"):
        push(panel, name, "Home", 1)
    panel.get_by_text("give at least one system a weight").wait_for()
    push(panel, "unet-8", "End", 1)
    score.wait_for()
    panel.get_by_role("button", name="keep for notebook 05").click()
    panel.get_by_text("kept in choice.json").wait_for()
    shoot(panel, "3-what-if")

    panel.get_by_role("tab", name="Train").click()
    epochs = panel.get_by_label("epochs")
    epochs.fill("2")
    epochs.press("Enter")
    panel.get_by_role("button", name="train", exact=True).click()
    shoot(panel, "4-training")
    panel.get_by_text(re.compile(r"my-scratch-none-bce.*/fold-0: score")).wait_for(
        timeout=4 * MINUTE
    )
    panel.locator("option", has_text="my-scratch-none-bce-2ep/fold-0").wait_for(
        state="attached"
    )
    shoot(panel, "5-trained")
    panel.get_by_role("tab", name="Systems").click()
    shoot(panel, "6-joined")
    assert not errors
    assert not page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count()
