"""A headless Chromium, controlled by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
WIDTHS = {390: 844, 1440: 900}
"""Widths of a phone and a screen, and their heights, in CSS pixels."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser, and close it at the end of the block."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM) as browser:
        yield browser


def show(browser: Browser, address: str, width: int, *, dark: bool = False) -> Page:
    """Open a page in the only window of a browser. If `width` is small, the window emulates a phone."""
    for context in browser.contexts:
        context.close()
    size = {"width": width, "height": WIDTHS[width]}
    page = browser.new_page(viewport=size, is_mobile=width < 600, color_scheme="dark" if dark else "light")
    page.goto(address)
    return page


def problems(page: Page) -> list[str]:
    """Return the errors and warnings of a page's console, and the uncaught exceptions of the page."""
    told = [message.text for message in page.console_messages() if message.type in ("error", "warning", "assert")]
    return told + [str(error) for error in page.page_errors()]
