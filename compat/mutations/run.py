#!/usr/bin/env python3
"""Breaks one rule of the protocol at a time and records which transcript or scenario notices.

    compat/mutations/run.py [--only PATTERN]... [--catchers NAMES] [--work FOLDER] [--again] [--list]

Works in a git worktree of its own (of HEAD, detached) with its own target folder, both under the work folder, which stays
so that the next run builds little. For each entry of mutations.toml: its text is replaced, the catchers run in their
order until one fails, the text is put back. What a mutation was caught by is kept in results.json beside RESULTS.md,
which is made of it; an entry that was caught and whose texts have not changed is not run again unless `--again`. An entry whose text does not
stand exactly once in its file is an error.

Catchers, in this order (`--catchers transcripts,scenarios`, the default; `tests` is a stand-in while others are not built):
    transcripts   cargo test --test transcripts: every recording against the fixture server
    scenarios     scripts/conformance --profile dev --transport http: the official suite
    tests         cargo test --test it conversations::

A mutation that does not compile is an error: it proves nothing. Exit status: 0 all caught, 1 some not, 2 an error.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIST = HERE / "mutations.toml"
KEPT = HERE / "results.json"
TABLE = HERE / "RESULTS.md"
BUILD_SECONDS = 1800
# A broken rule may leave a client waiting: that is a failure too.
CATCH_SECONDS = {"transcripts": 75, "scenarios": 1200, "tests": 600}
BUILDS = {
    "transcripts": ["cargo", "test", "--locked", "--no-run", "--test", "transcripts"],
    "scenarios": ["cargo", "build", "--locked", "--example", "fixture_server"],
    "tests": ["cargo", "test", "--locked", "--no-run", "--test", "it"],
}
RUNS = {
    # Most of a replay that fails is waiting, so many run at a time.
    "transcripts": ["cargo", "test", "--locked", "--test", "transcripts", "--", "--test-threads", "16"],
    "scenarios": ["scripts/conformance", "--profile", "dev", "--transport", "http"],
    "tests": ["cargo", "test", "--locked", "--test", "it", "conversations::"],
}
# Lines that name what failed: libtest, and the report of scripts/conformance.
FAILED = re.compile(r"^test (?P<test>\S.*?) \.\.\. FAILED|^\s*(?:FAIL|FAILED)[:\s]+(?P<scenario>\S+(?: \S+)?)", re.M)


class Broken(Exception):
    """The run itself does not work; the text says what."""


def fingerprint(mutation):
    return hashlib.sha256("\0".join(mutation[key] for key in ("file", "find", "replace")).encode()).hexdigest()[:16]


def run(command, folder, target, seconds, log):
    """The exit code and the output; None where time ran out. Nothing of it is left behind."""
    environment = dict(
        os.environ, CARGO_TARGET_DIR=str(target), CARGO_PROFILE_DEV_DEBUG="0", RUST_BACKTRACE="0", INSTA_UPDATE="no",
        INSTA_FORCE_PASS="0",
    )
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    return code, log.read_text(errors="replace")


def worktree(work):
    """The copy that is mutated, as HEAD is."""
    copy = work / "tree"
    if not copy.exists():
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(copy), "HEAD"], cwd=ROOT, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "checkout", "--quiet", "--force", "--detach", head], cwd=copy, check=True)
    return copy


def applied(copy, mutation):
    path = copy / mutation["file"]
    text = path.read_text()
    count = text.count(mutation["find"])
    if count != 1:
        raise Broken(f"{mutation['name']}: its text stands {count} times in {mutation['file']}; say what the rule is now")
    path.write_text(text.replace(mutation["find"], mutation["replace"]))
    return path, text


def caught_by(copy, work, mutation, catchers):
    path, original = applied(copy, mutation)
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    try:
        for catcher in catchers:
            log = logs / f"{mutation['name']}.{catcher}.log"
            code, text = run(BUILDS[catcher], copy, work / "target", BUILD_SECONDS, log)
            if code != 0:
                end = "\n".join(line for line in text.splitlines() if line.startswith("error"))[-600:]
                raise Broken(f"{mutation['name']}: does not build ({log}): {end}")
            code, text = run(RUNS[catcher], copy, work / "target", CATCH_SECONDS[catcher], log)
            if code == 0:
                continue
            group = "scenario" if catcher == "scenarios" else "test"
            failed = sorted({found[group].strip() for found in FAILED.finditer(text) if found[group]})
            if code is None:
                failed = failed or ["nothing came to an end"]
            elif not failed:
                raise Broken(f"{mutation['name']}: {catcher} ended with {code} and names no failure ({log})")
            return {"catcher": catcher, "count": len(failed), "first": failed[0]}
        return {"catcher": None, "count": 0, "first": ""}
    finally:
        path.write_text(original)


def baseline(copy, work, catchers):
    """What fails without any mutation proves nothing about one."""
    for catcher in catchers:
        log = work / f"baseline.{catcher}.log"
        for command, seconds in ((BUILDS[catcher], BUILD_SECONDS), (RUNS[catcher], CATCH_SECONDS[catcher])):
            code, _ = run(command, copy, work / "target", seconds, log)
            if code != 0:
                raise Broken(f"{' '.join(command)} fails without any mutation ({log})")


def table(mutations, kept):
    lines = [
        "# What notices a broken rule",
        "",
        "Written by `compat/mutations/run.py` from the list in `mutations.toml`: each rule of the protocol broken by itself,",
        "and the first transcript or scenario that fails. The catchers run in the order transcripts, scenarios.",
        "",
        "| mutation | rule | source | caught by | how many fail | the first |",
        "|---|---|---|---|---|---|",
    ]
    caught = missed = 0
    for mutation in mutations:
        result = kept.get(mutation["name"])
        if not result or result["fingerprint"] != fingerprint(mutation):
            row = ("not run", "", "")
        elif result["catcher"] is None:
            missed += 1
            row = ("**nothing**", "0", "")
        else:
            caught += 1
            row = (result["catcher"], str(result["count"]), f"`{result['first']}`")
        cells = (f"`{mutation['name']}`", mutation["rule"], mutation["spec"], *row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    rest = len(mutations) - caught - missed
    lines += ["", f"{len(mutations)} mutations: {caught} caught, {missed} not caught, {rest} not run."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="mutations by name, as in a shell")
    parser.add_argument("--catchers", default="transcripts,scenarios")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".test" / "mutations")
    parser.add_argument("--again", action="store_true", help="also what has a result")
    parser.add_argument("--list", action="store_true", help="name the mutations and end")
    parser.add_argument("--no-baseline", action="store_true", help="trust that nothing fails without a mutation")
    options = parser.parse_args()
    mutations = tomllib.loads(LIST.read_text())["mutation"]
    if options.list:
        for mutation in mutations:
            print(f"{mutation['name']}: {mutation['rule']}")
        return 0
    catchers = options.catchers.split(",")
    if unknown := set(catchers) - set(RUNS):
        raise Broken(f"no catcher is called {', '.join(sorted(unknown))}: there are {', '.join(RUNS)}")
    wanted = [m for m in mutations if not options.only or any(fnmatch.fnmatch(m["name"], p) for p in options.only)]
    if not wanted:
        raise Broken("no mutation has such a name: see --list")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    has_result = lambda m: kept.get(m["name"], {}).get("fingerprint") == fingerprint(m) and kept[m["name"]]["catcher"]
    is_new = lambda m: options.again or not has_result(m)
    wanted = [m for m in wanted if is_new(m)]
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    copy = worktree(work)
    if wanted and not options.no_baseline:
        baseline(copy, work, catchers)
    errors = []
    for number, mutation in enumerate(wanted, 1):
        start = time.monotonic()
        try:
            result = caught_by(copy, work, mutation, catchers)
        except Broken as error:
            errors.append(str(error))
            print(f"{number}/{len(wanted)} {mutation['name']}: ERROR {error}", flush=True)
            continue
        kept[mutation["name"]] = {"fingerprint": fingerprint(mutation), **result}
        names = {m["name"] for m in mutations}
        kept = {name: kept[name] for name in sorted(kept) if name in names}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        TABLE.write_text(table(mutations, kept))
        said = f"{result['catcher']}: {result['first']} ({result['count']})" if result["catcher"] else "NOTHING"
        print(f"{number}/{len(wanted)} {mutation['name']}: {said}, {time.monotonic() - start:.0f} s", flush=True)
    TABLE.write_text(table(mutations, kept))
    if errors:
        print(f"{len(errors)} errors", file=sys.stderr)
        return 2
    missed = [m["name"] for m in mutations if kept.get(m["name"], {}).get("catcher", "") is None]
    if missed:
        print("nothing notices: " + ", ".join(missed), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as error:
        print(f"mutations: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
