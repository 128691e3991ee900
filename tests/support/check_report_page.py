"""Looks at a report as a reader does: in a browser, on a phone and on a screen, by keyboard, and with axe-core.

python tests/support/check_report_page.py demo/report.html --pictures build/report-pages

axe-core is used where `make check-report` has put it, in build/axe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from browser import Page, open_browser

AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = {390: 844, 1440: 900}

# What reaches beyond the window, but for what lies in a box that scrolls by itself.
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
                    browser.picture(arguments.pictures / f"{path.stem}-{width}.png", arguments.height)
    print("\n".join(faults) or "no faults")
    return 1 if faults else 0


def look(browser: Page, path: Path, width: int, *, dark: bool = False) -> list[str]:
    """Everything that is wrong with a page at a width, a line each; with axe-core where it is."""
    browser.problems.clear()
    browser.requests.clear()
    address = path.resolve().as_uri()
    browser.open(address, width, WIDTHS[width], dark=dark)
    faults = list(browser.problems)
    faults += [f"asks for {asked[:80]}" for asked in browser.requests if asked != address and not asked.startswith("data:")]
    return faults + faults_of(browser, width)


def faults_of(browser: Page, width: int) -> list[str]:
    """What is wrong with the page that is open: it is wider than its window, or axe-core, where it is, finds something."""
    faults = []
    size = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    if size[0] > size[1] or size[1] != width:
        faults.append(f"is {size[0]} px wide in a window of {size[1]}")
    faults += [f"{part} reaches out of the window" for part in browser.run(_OVERHANG)]
    if AXE.exists():
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
        browser.run(AXE.read_text(encoding="utf-8") + "; true")
        faults += browser.run(_FAULTS)
        browser.run("document.querySelectorAll('details').forEach(part => part.open = false)")
    return faults


def state(browser: Page) -> dict[str, Any]:
    """What the page says at the slider's place."""
    found: dict[str, Any] = browser.run("""({
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
