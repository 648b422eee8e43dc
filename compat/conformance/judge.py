"""Judges what a run of the conformance suite left behind against expected.json. Reads files, starts nothing."""

import dataclasses
import json
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
NEUTRAL = "INFO"


class Misjudged(Exception):
    """The table contradicts itself."""


@dataclasses.dataclass
class Verdict:
    """What one run amounts to. It is good if there are no problems."""

    passed: dict = dataclasses.field(default_factory=lambda: {"scored": [], "unscored": []})
    excepted: dict = dataclasses.field(default_factory=lambda: {"scored": [], "unscored": []})
    total: dict = dataclasses.field(default_factory=lambda: {"scored": 0, "unscored": 0})
    checks: int = 0
    problems: list = dataclasses.field(default_factory=list)

    def line(self):
        """`30/30 scored, 2/3 unscored, 84 checks, excepted: NAME`"""
        parts = [f"{len(self.passed[kind])}/{self.total[kind]} {kind}" for kind in self.total if self.total[kind]]
        excepted = [name for names in self.excepted.values() for name in names]
        told = f", excepted: {' '.join(excepted)}" if excepted else ""
        return f"{', '.join(parts)}, {self.checks} checks{told}"


def table():
    """expected.json, once it is known to agree with itself."""
    expected = json.loads((HERE / "expected.json").read_text())
    for name, one in expected["sets"].items():
        for kind in ("scored", "unscored"):
            if len(one[kind]) != one["count"][kind]:
                raise Misjudged(f"expected.json: {name} counts {one['count'][kind]} {kind}, and lists {len(one[kind])}")
    for exception in expected["exceptions"]:
        one = expected["sets"].get(exception["set"])
        if one is None or exception["scenario"] not in {**one["scored"], **one["unscored"]}:
            raise Misjudged(f"expected.json: an exception names {exception['set']}/{exception['scenario']}, not listed")
        if not exception["reason"] or not exception["checks"] or not set(exception["over"]) <= set(one["over"]):
            raise Misjudged(f"expected.json: the exception of {exception['set']}/{exception['scenario']} says too little")
    return expected


def judge(expected, name, over, results, code, selected=None, foreign=False):
    """The verdict on one run.

    `name` is a set of the table, `over` a transport, `results` the folder the suite wrote to, `code` its exit code,
    `selected` the scenarios that were asked for if not all were. A server that is not the fixture server (`foreign`) may
    pass a scenario with fewer checks than it does, not with none.
    """
    one, verdict = expected["sets"][name], Verdict()
    ran = {}
    for folder in sorted(results.iterdir()) if results.is_dir() else []:
        if found := FOLDER.fullmatch(folder.name):
            ran.setdefault(found["scenario"], []).append(folder / "checks.json")
    for kind in ("scored", "unscored"):
        for scenario, least in one[kind].items():
            if selected is not None and scenario not in selected:
                continue
            verdict.total[kind] += 1
            exceptions = {}
            for exception in expected["exceptions"]:
                if (exception["set"], exception["scenario"]) == (name, scenario) and over in exception["over"]:
                    exceptions.update(exception["checks"])
            problems, checks = scenario_problems(ran.pop(scenario, []), exceptions, 1 if foreign else least)
            verdict.checks += checks
            verdict.problems += [f"{scenario}: {problem}" for problem in problems]
            if not problems:
                (verdict.excepted if exceptions else verdict.passed)[kind].append(scenario)
    verdict.problems += [f"{scenario}: the suite ran it, and expected.json does not list it" for scenario in sorted(ran)]
    if code not in (0, 1):
        verdict.problems.append(f"the suite crashed or was ended: exit code {code}")
    if code == 1 and not verdict.problems and not any(verdict.excepted.values()):
        verdict.problems.append("the suite's exit code says that something failed, and none of its checks does")
    return verdict


def scenario_problems(files, exceptions, least):
    """What is wrong with one scenario, and how many of its checks succeeded."""
    if len(files) != 1:
        return ["the suite did not run it to its end" if not files else f"the suite ran it {len(files)} times"], 0
    try:
        checks = json.loads(files[0].read_text())
        statuses = [(check["id"], check["status"]) for check in checks]
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [f"its results cannot be read: {error!r}"], 0
    problems, used = [], set()
    succeeded = sum(status == "SUCCESS" for _, status in statuses)
    for check, (ident, status) in zip(checks, statuses):
        if status in ("SUCCESS", NEUTRAL) and exceptions.get(ident) != status:
            continue
        if exceptions.get(ident) == status:
            used.add(ident)
        else:
            problems.append(describe(check))
    problems += [f"{ident}: is no {status} any more: remove it from expected.json"
                 for ident, status in exceptions.items() if ident not in used]
    # What is excepted may end a scenario early, or be all of it.
    if not problems and not exceptions and succeeded < least:
        problems.append(f"{succeeded} checks succeeded, expected at least {least}")
    return problems, succeeded


def describe(check):
    """What the check wanted and what it saw, in at most a few lines."""
    seen = str(check.get("errorMessage") or "no reason given")
    details = json.dumps(check.get("details"), ensure_ascii=False) if check.get("details") else ""
    lines = [f"{check['id']} {check['status']}", f"expected: {check.get('description', '')}", f"seen: {seen}"]
    if details:
        lines.append(f"details: {details}")
    return "\n    ".join(shorten(line) for line in lines)


def shorten(line, most=400):
    line = " ".join(line.split())
    return line if len(line) <= most else f"{line[:most]}… ({len(line)} characters)"
