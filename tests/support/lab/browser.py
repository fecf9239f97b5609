"""
Drives Debian's chromium through its driver, by selenium: both are needs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.jobs import LEASHED
from tests.support.needs import lack, need, needed

#: Seconds that a page may take until it shows what a test waits for.
PATIENCE = 30.0


def leashed(script: Path, program: str) -> str:
    """Write a script that runs a program which dies with whoever has started it.  -> its path."""
    script.write_text(f'#!/bin/sh\nexec {shlex.join(needed(LEASHED))} {shlex.quote(program)} "$@"\n')
    script.chmod(0o700)
    return str(script)


@contextmanager
def chromium(folder: Path, scripts: bool = True) -> Iterator[Any]:
    """
    Run a browser without a screen.

    @param folder: where it keeps what it writes.
    @param scripts: whether pages may run their scripts.
    @return: selenium's driver of it.
    """
    browser, driver = need("chromium", "chromedriver")
    try:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        lack("not installed: selenium; it comes with the extra e2e of pyproject.toml")
    folder.mkdir()
    options = ChromeOptions()
    options.binary_location = leashed(folder / "chromium", browser)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # tests may run as root, and see no page but their own
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1100,900",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    service = Service(
        leashed(folder / "chromedriver", driver),
        log_output=str(folder / "driver.log"),
        env={**os.environ, "HOME": str(folder)},
    )
    running = Chrome(options=options, service=service)
    try:
        running.set_page_load_timeout(PATIENCE)
        yield running
    finally:
        running.quit()
