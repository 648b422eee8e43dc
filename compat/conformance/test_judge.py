#!/usr/bin/env python3
"""Tests that judge.py finds what it must: each row is what a suite may leave behind, and what is to be said of it."""

import json
import pathlib
import tempfile
import unittest

from judge import Misjudged, judge, table

STAMP = "2026-07-28T10-11-12-131Z"
EXPECTED = {
    "sets": {"s": {"over": ["http", "stdio"], "count": {"scored": 2, "unscored": 1},
                   "scored": {"ping": 1, "server-stateless": 2}, "unscored": {"headers": 2}}},
    "exceptions": [{"set": "s", "scenario": "headers", "over": ["stdio"], "checks": {"reject": "FAILURE"},
                    "reason": "about HTTP"}],
}
GOOD = {"ping": ["ping SUCCESS"], "server-stateless": ["a SUCCESS", "b SUCCESS", "c INFO"],
        "headers": ["accept SUCCESS", "reject SUCCESS"]}
BRIDGED = {**GOOD, "headers": ["accept SUCCESS", "reject FAILURE"]}

# Name, transport, what is different from a good run, exit code, and what the only problem must say (None: no problem).
ROWS = [
    ("all pass", "http", {}, 0, None),
    ("an excepted check fails", "stdio", {"headers": BRIDGED["headers"]}, 1, None),
    ("a check fails", "http", {"ping": ["ping FAILURE"]}, 1, "ping: ping FAILURE\n    expected: what ping wants\n    seen: "),
    ("a check fails beside good ones", "http", {"server-stateless": ["a SUCCESS", "b SUCCESS", "c FAILURE"]}, 1,
     "server-stateless: c FAILURE"),
    ("an unscored check fails", "http", {"headers": ["accept SUCCESS", "reject FAILURE"]}, 0, "headers: reject FAILURE"),
    ("a warning is a failure", "http", {"ping": ["ping SUCCESS", "x WARNING"]}, 0, "ping: x WARNING"),
    ("a scenario is skipped", "http", {"ping": ["ping SKIPPED"]}, 0, "ping: ping SKIPPED"),
    ("an unknown status is a failure", "http", {"ping": ["ping SUCCESS", "x MAYBE"]}, 0, "ping: x MAYBE"),
    ("a scenario tells nothing", "http", {"ping": ["ping INFO"]}, 0, "ping: 0 checks succeeded, expected at least 1"),
    ("a scenario ends early", "http", {"server-stateless": ["a SUCCESS"]}, 0, "server-stateless: 1 checks succeeded"),
    ("a scenario has no checks", "http", {"ping": []}, 0, "ping: 0 checks succeeded"),
    ("a scenario vanished", "http", {"ping": None}, 0, "ping: the suite did not run it to its end"),
    ("a scenario is new", "http", {"novel": ["n SUCCESS"]}, 0, "novel: the suite ran it, and expected.json does not"),
    ("an exception is stale", "stdio", {"headers": GOOD["headers"]}, 0, "headers: reject: is no FAILURE any more"),
    ("an excepted check is gone", "stdio", {"headers": ["accept SUCCESS"]}, 0, "headers: reject: is no FAILURE any more"),
    ("another check of an excepted scenario fails", "stdio", {"headers": ["accept FAILURE", "reject FAILURE"]}, 1,
     "headers: accept FAILURE"),
    ("an excepted check is only skipped", "stdio", {"headers": ["accept SUCCESS", "reject SKIPPED"]}, 0,
     ["headers: reject SKIPPED", "headers: reject: is no FAILURE any more"]),
    ("an exception of another transport", "http", {"headers": BRIDGED["headers"]}, 0, "headers: reject FAILURE"),
    ("the suite crashed at its end", "http", {}, 134, "the suite crashed or was ended: exit code 134"),
    ("the suite was ended", "http", {}, None, "the suite crashed or was ended: exit code None"),
    ("the suite knows of a failure that it does not show", "http", {}, 1, "the suite's exit code says that something"),
    ("results are cut off", "http", {"ping": "[{"}, 0, "ping: its results cannot be read"),
    ("results are something else", "http", {"ping": "{\"a\": 1}"}, 0, "ping: its results cannot be read"),
]


class Judging(unittest.TestCase):
    def run_of(self, folder, scenarios, over="http", code=0, **options):
        for scenario, checks in scenarios.items():
            if checks is None:
                continue
            home = pathlib.Path(folder) / f"server-{scenario}-{STAMP}"
            home.mkdir()
            if not isinstance(checks, str):
                pairs = [check.split() for check in checks]
                checks = json.dumps([{"id": ident, "status": status, "description": f"what {ident} wants"}
                                     for ident, status in pairs])
            (home / "checks.json").write_text(checks)
        return judge(EXPECTED, "s", over, pathlib.Path(folder), code, **options)

    def test_each_row(self):
        for name, over, change, code, wanted in ROWS:
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                good = GOOD if over == "http" else BRIDGED
                verdict = self.run_of(folder, {**good, **change}, over, code)
                wanted = [] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
                self.assertEqual(len(verdict.problems), len(wanted), verdict.problems)
                for problem, start in zip(verdict.problems, wanted):
                    self.assertTrue(problem.startswith(start), problem)

    def test_nothing_was_written(self):
        verdict = judge(EXPECTED, "s", "http", pathlib.Path("/nonexistent"), 127)
        self.assertEqual(len(verdict.problems), 4, verdict.problems)

    def test_the_line_counts_what_is_excepted_apart(self):
        with tempfile.TemporaryDirectory() as folder:
            verdict = self.run_of(folder, BRIDGED, "stdio", 1)
        self.assertEqual(verdict.line(), "2/2 scored, 0/1 unscored, 4 checks, excepted: headers")

    def test_only_what_was_selected_must_have_run(self):
        with tempfile.TemporaryDirectory() as folder:
            verdict = self.run_of(folder, {"ping": GOOD["ping"]}, selected={"ping"})
        self.assertEqual((verdict.problems, verdict.line()), ([], "1/1 scored, 1 checks"))

    def test_a_foreign_server_may_pass_with_fewer_checks_but_not_with_none(self):
        for checks, problems in ((["a SUCCESS"], 0), (["a INFO"], 1)):
            with tempfile.TemporaryDirectory() as folder:
                verdict = self.run_of(folder, {**GOOD, "server-stateless": checks}, foreign=True)
            self.assertEqual(len(verdict.problems), problems, verdict.problems)

    def test_the_table_agrees_with_itself(self):
        try:
            table()
        except Misjudged as error:
            self.fail(str(error))


if __name__ == "__main__":
    unittest.main()
