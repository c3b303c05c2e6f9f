"""A real browser for the tests of pages: Chromium, controlled by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

#: The browser, and the options that keep it from contacting its vendor.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="chromium is not installed (Debian: apt-get install chromium)"
)


@dataclass
class Visit:
    """A page, the hosts that it contacted, and its errors."""

    page: Page
    hosts: set[str | None] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._request)
        self.page.on("requestfailed", lambda request: self.errors.append(f"{request.url} failed"))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _request(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).hostname)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@contextmanager
def visiting(folder: Path, width: int = 1300, height: int = 1000, **options: Any) -> Iterator[Visit]:
    """A fresh browser, whose files are in a folder, with a window of this size."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder, executable_path=BROWSER, args=QUIET, viewport={"width": width, "height": height}, **options
        )
        yield Visit(browser.pages[0])
        browser.close()
