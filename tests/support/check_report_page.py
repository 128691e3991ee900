"""Checks a report page in a browser, in windows that are as wide as phones and screens, and with axe-core.

python tests/support/check_report_page.py demo/report.html --pictures build/report-pages

axe-core is used if `make check-report` has put it into build/axe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from browser import WIDTHS, open_browser, problems, show
from playwright.sync_api import Browser, Page

AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"

# Finds the elements that extend beyond the window, except elements in a box that scrolls by itself.
_OVERHANG = """[...document.querySelectorAll('body *')].filter(part => {
  const box = part.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !part.closest('.scroll, .skip, .unseen');
}).map(part => part.tagName + '.' + part.className)"""

_FAULTS = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .map(one => one.id + ': ' + one.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary).join(' | ')))"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="+")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each page at each width")
    parser.add_argument("--height", type=int, help="of the pictures, in pixels (default: that of the page)")
    arguments = parser.parse_args()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    faults = []
    with open_browser() as browser:
        for path in arguments.page:
            for width in WIDTHS:
                faults += [f"{path} at {width} px: {fault}" for fault in look(browser, path, width)]
                if arguments.pictures:
                    (page,) = browser.contexts[0].pages
                    clip = {"x": 0, "y": 0, "width": width, "height": arguments.height} if arguments.height else None
                    page.screenshot(path=arguments.pictures / f"{path.stem}-{width}.png", full_page=True, clip=clip)
    print("\n".join(faults) or "no faults")
    return 1 if faults else 0


def look(browser: Browser, path: Path, width: int, *, dark: bool = False) -> list[str]:
    """Open a page in a window of the given width, and return all of the page's faults, one line each.

    If axe-core is installed, the faults include its findings.
    """
    address = path.resolve().as_uri()
    page = show(browser, address, width, dark=dark)
    asked = [request.url for request in page.requests()]
    faults = [f"asks for {one[:80]}" for one in asked if one != address and not one.startswith("data:")]
    return problems(page) + faults + faults_of(page, width)


def faults_of(page: Page, width: int) -> list[str]:
    """Return the faults of the open page: parts that are wider than the window, and axe-core's findings.

    axe-core runs only if it is installed.
    """
    faults = []
    size = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    if size[0] > size[1] or size[1] != width:
        faults.append(f"is {size[0]} px wide in a window of {size[1]}")
    faults += [f"{part} reaches out of the window" for part in page.evaluate(_OVERHANG)]
    if AXE.exists():
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        page.evaluate(AXE.read_text(encoding="utf-8") + "; true")
        faults += page.evaluate(_FAULTS)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
    return faults


def state(page: Page) -> dict[str, Any]:
    """Return the values that the page shows for the slider's current position, by name."""
    found: dict[str, Any] = page.evaluate("""({
      value: document.getElementById('ratio').value,
      spoken: document.getElementById('ratio').getAttribute('aria-valuetext'),
      ratio: document.getElementById('ratio-now').textContent,
      now: document.getElementById('now').textContent,
      counts: [...document.querySelectorAll('.count')].map(part => parseInt(part.textContent)),
      focus: document.activeElement.id,
    })""")
    return found


if __name__ == "__main__":
    sys.exit(main())
