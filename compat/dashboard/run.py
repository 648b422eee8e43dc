#!/usr/bin/env python3
"""Looks at the dashboard of a real `tmws serve` in a real browser, headless.

    compat/dashboard/run.py --tmws target/debug/tmws --work .test/dashboard [--shots FOLDER]

The browser is Debian's `chromium-headless-shell`; where none is installed, it is downloaded and unpacked into the work
folder, with what it needs, by `apt-get` and without root. It is driven by the DevTools protocol over a pipe.

A server with a token is started in a folder of its own and given some traffic: runs that succeed, runs that fail, a
session that stays. The page is then loaded as a user does, who gives the token when the browser asks for it: at 390 and
1280 pixels, light and dark. It must show the figures that the server tells at `/dashboard.json`, follow them as they
change, rest while it is hidden, fit its window, ask nobody but this server, and complain of nothing in the console.

Prints a line per check of a window and `N passed, N failed`. Pictures are left in the work folder (`--shots`).
"""

import argparse
import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BROWSERS = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
PACKAGES = ["chromium-headless-shell", "fonts-dejavu-core"]
INSTALL_SECONDS = 300
WAIT_SECONDS = 20
REVISION = "2026-07-28"
WINDOWS = [(390, 844, "light"), (390, 844, "dark"), (1280, 800, "light"), (1280, 800, "dark")]


class Failed(Exception):
    """The page does not do what it should; the text says what."""


def expect(holds, text):
    if not holds:
        raise Failed(text)


def run(command, purpose, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=INSTALL_SECONDS,
                          check=False, **options)
    expect(done.returncode == 0, f"{purpose}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def find_browser(work):
    """The browser's program and its environment."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found, dict(os.environ)
    expect(shutil.which("apt-get") and shutil.which("dpkg"), f"no browser: install one of {', '.join(BROWSERS)}")
    root = work / "root"
    if not (work / ".installed").exists():
        archives = work / "archives"
        shutil.rmtree(root, ignore_errors=True)
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        run(["apt-get", "-qq", "-y", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={archives}",
             "-o", "APT::Sandbox::User=root", "--download-only", "--no-install-recommends", "install", *PACKAGES],
            "downloading the browser (where its packages are not known, run `apt-get update` first)")
        for package in sorted(archives.glob("*.deb")):
            run(["dpkg", "-x", package, root], f"unpacking {package.name}")
        shutil.rmtree(archives)
        (work / ".installed").write_text("")
    libraries = [root / "usr/lib", *sorted((root / "usr/lib").glob("*-linux-gnu")),
                 *sorted((root / "usr/lib").glob("*-linux-gnu/pulseaudio"))]
    env = dict(os.environ, LD_LIBRARY_PATH=":".join(map(str, libraries)))
    return str(root / "usr/lib/chromium/chromium-headless-shell"), env


class Browser:
    """One headless browser, spoken to over a pipe."""

    def __init__(self, program, env, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def place():
            # The protocol has fixed descriptors.
            os.dup2(theirs_in, 100), os.dup2(theirs_out, 101)
            os.dup2(100, 3), os.dup2(101, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
             "--force-color-profile=srgb", "--hide-scrollbars", f"--user-data-dir={profile}"],
            env=env, preexec_fn=place, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(pathlib.Path(profile) / "stderr", "wb"), start_new_session=True)
        os.close(theirs_in), os.close(theirs_out)
        self.out, self.source = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb", buffering=0)
        self.number, self.answers, self.pages = 0, {}, {}
        self.changed, self.sending, self.ended = threading.Condition(), threading.Lock(), False
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        rest = b""
        while chunk := self.source.read(1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                page = self.pages.get(message.get("sessionId"))
                if "method" in message and page:
                    page.see(message["method"], message["params"])
                with self.changed:
                    if "id" in message:
                        self.answers[message["id"]] = message
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def send(self, method, session=None, **params):
        with self.sending:
            self.number += 1
            message = {"id": self.number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            self.out.write(json.dumps(message).encode() + b"\0")
            return self.number

    def ask(self, method, session=None, **params):
        number = self.send(method, session, **params)
        with self.changed:
            done = self.changed.wait_for(lambda: number in self.answers or self.ended, WAIT_SECONDS)
            expect(done and number in self.answers, f"the browser does not answer {method}")
            answer = self.answers.pop(number)
        expect("error" not in answer, f"{method}: {answer.get('error')}")
        return answer["result"]

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Page:
    """A window of its own, with nothing of another's: no password that was given there is known."""

    def __init__(self, browser, width, height, scheme, password):
        self.browser = browser
        self.errors, self.requests, self.asked = [], [], 0
        self.password = password
        self.context = context = browser.ask("Target.createBrowserContext")["browserContextId"]
        target = browser.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.pages[self.session] = self
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Fetch.enable", handleAuthRequests=True, patterns=[{"urlPattern": "*"}])

    def ask(self, method, **params):
        return self.browser.ask(method, self.session, **params)

    def see(self, method, params):
        """Something happened: a password is asked for, a request leaves, a complaint is made."""
        if method == "Fetch.requestPaused":
            self.browser.send("Fetch.continueRequest", self.session, requestId=params["requestId"])
        elif method == "Fetch.authRequired":
            self.asked += 1
            answer = {"response": "ProvideCredentials", "username": "me", "password": self.password}
            self.browser.send("Fetch.continueWithAuth", self.session, requestId=params["requestId"],
                              authChallengeResponse=answer if self.asked < 3 else {"response": "CancelAuth"})
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("text", "an exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")

    def evaluate(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        expect("exceptionDetails" not in result, f"{expression}: {result.get('exceptionDetails')}")
        return result["result"].get("value")

    def wait_for(self, what, holds, seconds=WAIT_SECONDS):
        deadline = time.monotonic() + seconds
        while True:
            value = holds()
            if value:
                return value
            expect(time.monotonic() < deadline, f"{what}: not within {seconds} s; {self.errors}")
            with self.browser.changed:
                self.browser.changed.wait(0.05)

    def open(self, url):
        self.browser.send("Page.navigate", self.session, url=url)

    def close(self):
        self.browser.pages.pop(self.session)
        self.browser.ask("Target.disposeBrowserContext", browserContextId=self.context)

    def picture(self, path):
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


class Server:
    """A `tmws serve` in a folder of its own."""

    def __init__(self, tmws, folder, **environment):
        home, workspace = folder / "home", folder / "workspace"
        home.mkdir(parents=True), workspace.mkdir()
        subprocess.run(["git", "init", "-q", workspace], check=True)
        (workspace / "notes.md").write_text("# Notes\nTODO: look at the dashboard\n")
        env = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
        self.process = subprocess.Popen([tmws, "serve", "--listen", "127.0.0.1:0"], cwd=workspace, env=env, text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.told = []
        for line in self.process.stderr:
            self.told.append(line)
            if "address=" in line:
                self.address = line.split("address=")[1].split()[0]
                break
        expect(hasattr(self, "address"), "the server does not listen: " + "".join(self.told))
        threading.Thread(target=lambda: self.told.extend(self.process.stderr), daemon=True).start()
        self.token = (home / ".local/share/tmws/token").read_text().strip()
        self.number = 0

    def get(self, path):
        request = urllib.request.Request(f"http://{self.address}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            return json.load(answer)

    def call(self, arguments, tool="execute_pattern"):
        self.number += 1
        meta = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "dashboard", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": self.number, "method": "tools/call",
                "params": {"name": tool, "arguments": arguments, "_meta": meta}}
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
                   "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": REVISION,
                   "Mcp-Method": "tools/call", "Mcp-Name": tool}
        request = urllib.request.Request(f"http://{self.address}/mcp", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            return answer.read()

    def traffic(self, runs):
        for number in range(runs):
            self.call({"pattern": "memory.recall", "input": {"query": f"what is number {number}"}})
            # Asked twice, the answer is one that was kept.
            for _ in range(2):
                self.call({"pattern": "memory.by-tag", "input": {"tag": f"number-{number}"}})
            self.call({"content": f"Number {number} was noted by the browser's test"}, "remember")
        for pattern in ["no.such.pattern", "repo.digest", "memory.recall"]:
            self.call({"pattern": pattern, "input": {"sly": "sly-heron-input"}})

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the server does not end") from None


# What stands in the table below `id`, row by row.
ROWS = "[...document.querySelectorAll('#%s tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"


def milliseconds(text):
    """What a duration of the page means, to the three digits that it shows."""
    number, unit = text.replace(",", "").split()
    return float(number) * {"ms": 1, "s": 1000}[unit]


def check_durations(rows, told, key):
    """The percentiles of each row are those that the server tells."""
    told = {row[key]: row for row in told}
    for row in rows:
        for column, name in [(3, "p50_ms"), (4, "p95_ms"), (5, "p99_ms")]:
            shown, meant = milliseconds(row[column]), told[row[0]][name]
            expect(meant > 0 and abs(shown - meant) <= meant / 100, f"{row[0]}: {name} is {meant}, shown is {row[column]}")


def figures_of(told, name):
    return next((family["samples"] for family in told["figures"] if family["name"] == name), [])


def check_layers(page, told):
    """The layers of the cache, with their hits, misses and rate."""
    rows = {(row[0], row[1]): row[2] for row in page.evaluate(ROWS % "cache")}
    lookups = {(of["labels"]["layer"].replace("_", " "), of["labels"]["outcome"]): of["value"]
               for of in figures_of(told, "tmws_cache_lookups")}
    expect({"hit", "miss"} <= {outcome for layer, outcome in lookups if layer == "local"}, f"lookups: {lookups}")
    for (layer, outcome), count in lookups.items():
        shown = [value for (of, what), value in rows.items() if of == layer and what.split()[-1] == outcome]
        expect(shown == [f"{count:,}"], f"{layer} {outcome}: {count} is shown as {shown}; {rows}")
    hits, misses = lookups[("local", "hit")], lookups[("local", "miss")]
    rate = rows.get(("local", "hit rate"), "")
    expect(abs(float(rate.strip("%") or -1) - 100 * hits / (hits + misses)) <= 0.051, f"hit rate: {rate} of {lookups}")


def check_breakers(page, told):
    """Each backend with the state of its breaker."""
    shown = {row[0]: row[1].removeprefix("! ") for row in page.evaluate(ROWS % "breakers")}
    meant = {f"{of['labels']['kind']} {of['labels']['name']}": of["labels"]["state"].replace("_", " ")
             for of in figures_of(told, "tmws_breaker_state") if of["value"] == 1}
    expect(shown == meant and "database store" in shown, f"breakers: {shown} is not {meant}")


def check_degraded(browser, tmws, folder, shots):
    """A part that does not work: a Redis where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(tmws, folder, TMWS_REDIS_URL=f"redis://:sly-heron-password@127.0.0.1:{port}")
    try:
        server.traffic(8)
        page = Page(browser, 1280, 800, "light", server.token)
        page.open(f"http://{server.address}/")
        page.wait_for("the figures", lambda: page.evaluate("document.querySelectorAll('#methods tbody tr').length > 0"))
        page.wait_for("its standing",
                      lambda: "Degraded" in page.evaluate("document.getElementById('standing').textContent"))
        parts = {row[0]: row[1:] for row in page.evaluate(ROWS % "parts")}
        expect("Degraded" in parts["redis"][0] and "nobody listens" in parts["redis"][1], f"parts: {parts}")
        expect("Ready" in parts["store"][0], f"parts: {parts}")
        breakers = {row[0]: row[1] for row in page.evaluate(ROWS % "breakers")}
        expect(breakers["redis cache"].startswith("! ") and breakers["database store"] == "closed", f"breakers: {breakers}")
        everything = page.evaluate("document.documentElement.outerHTML")
        expect("sly-heron-password" not in everything, "the page shows a password")
        page.picture(shots / "degraded.png")
        page.close()
    finally:
        server.close()


def check_empty(browser, server, shots):
    """Before anybody called."""
    page = Page(browser, 1280, 800, "light", server.token)
    page.open(f"http://{server.address}/")
    page.wait_for("the page", lambda: "Nobody called yet." in page.evaluate("document.body?.textContent ?? ''"))
    page.wait_for("its parts", lambda: page.evaluate("document.querySelectorAll('#parts tbody tr').length > 0"))
    page.picture(shots / "empty.png")
    errors = [error for error in page.errors if "401" not in error]
    expect(not errors, f"the console complains: {errors}")
    page.close()


def check(browser, server, width, height, scheme, shots):
    page = Page(browser, width, height, scheme, server.token)
    page.open(f"http://{server.address}/")
    page.wait_for("the figures", lambda: page.evaluate("document.querySelectorAll('#methods tbody tr').length > 0"))
    expect(page.asked >= 1, "the browser was not asked for the token")
    told = server.get("/dashboard.json")
    number = lambda text: int(text.replace(",", ""))
    shown = {row[0]: number(row[1]) for row in page.evaluate(ROWS % "patterns")}
    expect(shown == {row["type"]: row["count"] for row in told["patterns"]}, f"patterns: {shown} is not {told['patterns']}")
    shown = {row[0]: number(row[1]) for row in page.evaluate(ROWS % "methods")}
    expect(shown == {row["method"]: row["count"] for row in told["methods"]}, f"methods: {shown} is not {told['methods']}")
    check_durations(page.evaluate(ROWS % "patterns"), told["patterns"], "type")
    check_durations(page.evaluate(ROWS % "methods"), told["methods"], "method")
    check_layers(page, told)
    check_breakers(page, told)
    tasks = {row[0]: row[1] for row in page.evaluate(ROWS % "tasks")}
    expect(tasks.get("tasks running") == "0" and "open" in tasks.values(), f"tasks and store: {tasks}")
    codes = [row[1] for row in page.evaluate(ROWS % "recent")]
    expect(codes == [error["code"] for error in told["recent_errors"]][:12], f"errors: {codes}")
    parts = [row[0] for row in page.evaluate(ROWS % "parts")]
    expect(parts == [name.replace("_", " ") for name in told["dependencies"]], f"parts: {parts}")
    expect(page.evaluate("document.getElementById('standing').textContent.includes('Ready')"), "it does not say that it is ready")
    expect(told["version"] in page.evaluate("document.getElementById('about').textContent"), "the version is not shown")

    # It is live: what happens now is shown soon, with how often a second.
    before = sum(row["count"] for row in told["methods"])
    server.traffic(2)
    after = sum(row["count"] for row in server.get("/dashboard.json")["methods"])
    calls = "document.querySelector('#tiles dd').firstChild.textContent.replaceAll(',', '')"
    expect(after > before, "no call was counted")
    page.wait_for("the new calls", lambda: int(page.evaluate(calls)) == after)
    page.wait_for("a rate", lambda: page.evaluate("document.querySelector('#tiles .beside').textContent.endsWith('a second')"))

    everything = page.evaluate("document.documentElement.outerHTML")
    for secret in [server.token, "sly-heron-input", "what is number", "was noted by"]:
        expect(secret not in everything, f"the page shows {secret!r}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    expect(wide <= width, f"the page is {wide} pixels wide in a window of {width}")
    unnamed = page.evaluate("[...document.querySelectorAll('table')].filter((table) => !table.caption || "
                            "[...table.querySelectorAll('th')].some((cell) => !cell.scope)).length")
    expect(unnamed == 0, f"{unnamed} tables lack a caption or the scope of a header")
    page.evaluate("document.querySelector('details').open = true")
    page.picture(shots / f"{width}-{scheme}.png")

    # Hidden it rests; shown again it asks at once.
    page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true});"
                  "document.dispatchEvent(new Event('visibilitychange')); 1")
    asked = len(page.requests)
    # A request that was on its way; then more than one period.
    time.sleep(3)
    expect(len(page.requests) <= asked + 1, f"hidden it asked {len(page.requests) - asked} times")
    asked = len(page.requests)
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); 1")
    page.wait_for("the next request", lambda: len(page.requests) > asked)

    own = f"http://{server.address}/"
    foreign = [url for url in page.requests if not url.startswith((own, "data:", "about:"))]
    expect(not foreign, f"it asked others: {foreign}")
    # The first answer of all is the 401 that makes the browser ask.
    errors = [error for error in page.errors if "401" not in error]
    expect(not errors, f"the console complains: {errors}")
    page.close()


def look(arguments, purpose, prepare):
    """Opens a browser and runs what `prepare(browser, folder, shots)` gives: checks with their names, what is done after each
    of them, and what ends it all. Returns the exit code."""
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    shots = (arguments.shots or work / "shots").resolve()
    shots.mkdir(parents=True, exist_ok=True)
    program, env = find_browser(work)
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix=f"tmws-{purpose}.") as folder:
        folder = pathlib.Path(folder)
        (folder / "profile").mkdir()
        browser = Browser(program, env, folder / "profile")
        end = lambda: None
        try:
            checks, between, end = prepare(browser, folder, shots)
            for name, check_one in checks:
                begun = time.monotonic()
                try:
                    check_one()
                    passed += 1
                    print(f"ok     {name} ({time.monotonic() - begun:.1f} s)", flush=True)
                except Failed as error:
                    failed += 1
                    print(f"FAILED {name}: {error}", flush=True)
                between()
        finally:
            browser.close()
            end()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tmws", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--shots", type=pathlib.Path)
    arguments = parser.parse_args()

    def prepare(browser, folder, shots):
        tmws = arguments.tmws.resolve()
        server = Server(tmws, folder)
        checks = [("empty", lambda: check_empty(browser, server, shots)),
                  ("degraded", lambda: check_degraded(browser, tmws, folder / "degraded", shots))]
        checks += [(f"{window[0]} pixels, {window[2]}", lambda window=window: check(browser, server, *window, shots))
                   for window in WINDOWS]
        return checks, lambda: server.traffic(3), server.close

    return look(arguments, "dashboard", prepare)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"FAILED {error}")
        sys.exit(1)
