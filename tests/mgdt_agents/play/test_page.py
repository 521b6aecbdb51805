"""The live page in a real browser."""

import re
import subprocess
import sys

from tests.browser import chromium, watched_page


def test_the_page_in_a_browser():
    command = [sys.executable, "-m", "mgdt_cli.play", "--agent", "dt", "--games", "Pong,Breakout"]
    with chromium() as browser:
        process = subprocess.Popen(
            [*command, "--web", "--port", "0"], stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            address = re.search(r"http://\S+/", process.stderr.readline())[0]
            page, faults = watched_page(browser, address, viewport={"width": 390, "height": 800})
            page.goto(address)
            page.wait_for_selector("figure", timeout=60_000)
            assert page.locator("figure strong").all_inner_texts() == ["Pong", "Breakout"]
            page.wait_for_selector("#status:has-text('decisions/s')")
            # Nothing is wider than a phone.
            assert page.evaluate("document.documentElement.scrollWidth") <= 390

            page.locator("figure").nth(1).click()
            page.keyboard.down("ArrowRight")
            page.wait_for_selector("figure.taken >> text=a person: right")
            # Another key for the same direction is let go.
            page.keyboard.press("KeyD")
            page.wait_for_timeout(500)
            assert page.locator("figure.taken >> text=a person: right").is_visible()
            page.keyboard.press("Escape")
            page.wait_for_selector("figure.taken", state="detached")

            # Other agents have no rule, and no predicted returns.
            assert page.locator("canvas.returns").nth(0).is_visible()
            page.select_option("#agent", "cql")
            page.wait_for_selector("#rule-label", state="hidden")
            page.wait_for_selector("canvas.returns", state="hidden")
            # Who comes later sees how things stand, and all see what one of them changes.
            page.click("#pause")
            page.wait_for_selector("#status:has-text('Paused')")
            other, other_faults = watched_page(browser, address)
            other.goto(address)
            other.wait_for_selector("#status:has-text('Paused')")
            other.click("#pause")
            page.wait_for_selector("#status:has-text('decisions/s')")
            other.locator("figure").nth(0).click()
            page.wait_for_selector("figure.taken >> text=a person")
            assert "Somebody plays it" in page.locator("figure.taken").get_attribute("aria-label")
            page.locator("figure").nth(0).click()  # does not take it
            other.close()
            page.wait_for_selector("figure.taken", state="detached")
            assert not faults
            assert not other_faults
            page.close()
            assert process.wait(60) == 0
            assert "The last page was closed." in process.stderr.read()
        finally:
            process.kill()
            process.wait()
