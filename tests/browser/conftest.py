"""Starts a headless Chromium for each test, and keeps its pages' messages, errors and requests.

Rule of this file: it needs `chromium` (Debian's package) and Playwright, so only `nox -s browser`
runs the tests that use it. The content security policy of a page stays in force. It forbids `eval`,
which Playwright's `wait_for_function` needs, so `wait` polls with `evaluate` instead.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE_S = 120.0  # s; a longer wait for a condition fails, so that no test hangs

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


class Browser:
    """Opens pages, and keeps their console messages, errors and requests."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self.messages: list[str] = []
        self.requests: list[str] = []

    def open(
        self,
        url: str,
        *,
        width: int = 1280,
        dark: bool = False,
        script: bool = True,
        touch: bool = False,
    ) -> Any:
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            accept_downloads=True,
            has_touch=touch,
        )
        context.add_init_script(VIOLATIONS)
        page = context.new_page()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        return page


def wait(page: Any, condition: str) -> Any:
    """Wait until an expression is true in the page, and return its value."""
    end = time.monotonic() + PATIENCE_S
    while not (found := page.evaluate(condition)):
        if time.monotonic() > end:
            raise AssertionError(f"never true: {condition}")
        page.wait_for_timeout(50)
    return found


@pytest.fixture
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    assert path, "there is no chromium; apt-get install chromium"
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield Browser(chromium)
        chromium.close()


@pytest.fixture
def faults_of() -> Callable[[Any], list[str]]:
    """Return a function with which axe lists the accessibility rules that a page violates."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def faults(page: Any) -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{it['id']}: {[n['target'] for n in it['nodes'][:3]]}" for it in found]

    return faults
