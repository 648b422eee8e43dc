#!/usr/bin/env python3
"""Looks at the report of `tmws accept` in a real browser, headless.

    compat/acceptance/run.py --tmws target/debug/tmws --work .test/dashboard [--report FOLDER]... [--shots FOLDER]

Where no report is given, `tmws accept --profile quick --only W4` makes one first. Each `index.html` is opened from its
file at 390 and 1280 pixels, light and dark, and on paper. It must fit its window, ask for nothing but itself, complain of
nothing in the console, need no script, name its tables and charts, have letters that can be read, and links that lead
somewhere. The browser is the one of `compat/dashboard/run.py` (give the same work folder, to install it once).

Prints a line per check of a window and `N passed, N failed`. Pictures are left in the work folder (`--shots`).
"""

import argparse
import base64
import importlib.util
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("dashboard", HERE.parent / "dashboard" / "run.py")
dashboard = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dashboard)
Browser, Failed, Page, expect = dashboard.Browser, dashboard.Failed, dashboard.Page, dashboard.expect

RUN_SECONDS = 300
LETTERS_MIN = 8.5
# What must be an empty list: the page's faults of each kind.
FAULTS = {
    "tables without a caption": "[...document.querySelectorAll('table')].filter((one) => !one.caption).length",
    "headers without a scope": "document.querySelectorAll('th:not([scope])').length",
    "charts without a title": "[...document.querySelectorAll('svg[role=img]')].filter((one) => "
                              "!one.querySelector('title') && !one.getAttribute('aria-label')).length",
    "links that lead nowhere": "[...document.querySelectorAll('a')].filter((one) => "
                               "!document.getElementById(one.getAttribute('href').slice(1))).length",
    "scripts": "document.scripts.length",
}
# The smallest letters of a chart, in pixels of the window.
LETTERS = """Math.min(99, ...[...document.querySelectorAll('figure > svg')].map((one) =>
  11 * one.getBoundingClientRect().width / one.viewBox.baseVal.width))"""
OVERFLOW = """[...document.querySelectorAll('body *:not(pre)')].filter((one) => !one.closest('svg') &&
  one.getBoundingClientRect().width > 0 && one.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 3).map((one) => one.tagName + '.' + one.className)"""


def make_report(tmws, folder):
    """A small one of a real run."""
    command = [tmws, "accept", "--profile", "quick", "--only", "W4", "--report", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    expect(done.returncode == 0, f"the run failed: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return folder


def check(browser, report, width, height, scheme, shots):
    page = Page(browser, width, height, scheme, "")
    url = (report / "index.html").resolve().as_uri()
    page.open(url)
    page.wait_for("the page", lambda: page.evaluate("document.readyState === 'complete' && !!document.querySelector('h1')"))
    # A page in full, as whoever opens everything sees it.
    page.evaluate("document.querySelectorAll('.failures details').forEach((one) => one.open = true)")
    page.picture(shots / f"{report.name}-{width}-{scheme}.png")
    wide = page.evaluate("document.documentElement.scrollWidth")
    expect(wide <= width, f"the page is {wide} pixels wide in a window of {width}: {page.evaluate(OVERFLOW)}")
    for name, count in FAULTS.items():
        found = page.evaluate(count)
        expect(found == 0, f"{found} {name}")
    letters = page.evaluate(LETTERS)
    expect(letters >= LETTERS_MIN, f"letters of a chart are {letters:.1f} pixels high")
    foreign = [asked for asked in page.requests if not asked.startswith((url, "about:"))]
    expect(not foreign, f"it asked for {foreign}")
    expect(not page.errors, f"the console complains: {page.errors}")
    page.close()


def check_paper(browser, report, shots):
    page = Page(browser, 794, 1123, "dark", "")
    page.open((report / "index.html").resolve().as_uri())
    page.wait_for("the page", lambda: page.evaluate("!!document.querySelector('h1')"))
    printed = page.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=False)
    (shots / f"{report.name}.pdf").write_bytes(base64.b64decode(printed["data"]))
    page.ask("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    expect(paper == "rgb(255, 255, 255)", f"paper is {paper}")
    page.picture(shots / f"{report.name}-paper.png")
    page.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tmws", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--report", type=pathlib.Path, action="append")
    parser.add_argument("--shots", type=pathlib.Path)
    arguments = parser.parse_args()
    expect(arguments.tmws or arguments.report, "give --tmws, to make a report, or --report")

    def prepare(browser, folder, shots):
        checks = []
        for report in arguments.report or [make_report(arguments.tmws.resolve(), folder / "report")]:
            for window in dashboard.WINDOWS:
                checks.append((f"{report.name}: {window[0]} pixels, {window[2]}",
                               lambda report=report, window=window: check(browser, report, *window, shots)))
            checks.append((f"{report.name}: paper", lambda report=report: check_paper(browser, report, shots)))
        return checks, lambda: None, lambda: None

    return dashboard.look(arguments, "acceptance", prepare)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"FAILED {error}")
        sys.exit(1)
