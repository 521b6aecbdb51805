"""A headless Chromium for the tests of pages."""

import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium():
    """Yield a browser that may reach this machine alone."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
    arguments += ["--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def watched_page(browser, address, **options):
    """Return a page, and a list that gets its console's errors and its requests elsewhere."""
    page = browser.new_page(**options)
    faults = []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:", "blob:", address.replace("http", "ws", 1)))
            or faults.append(request.url)
        ),
    )
    return page, faults
