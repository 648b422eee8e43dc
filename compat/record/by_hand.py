#!/usr/bin/env python3
"""Writes the transcripts of `by-hand-1`: what no client in use does, and what rules of the protocol are about all the same.

    cargo build --example fixture_server
    compat/record/by_hand.py --server target/debug/examples/fixture_server [--only PATTERN]... [--out compat/transcripts]

Each function below is one transcript: what the client says, and what it waits for before it goes on. What the fixture
server said to it is written down with it, as `tmws record` would; `cargo test --test transcripts` plays it again, and
its snapshot is what a reviewer reads. `compat/mutations` says which rule needs which of them.
"""

import argparse
import base64
import datetime
import fnmatch
import http.client
import json
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENT, VERSION = "by-hand", "1"
SECONDS = 20
SCENARIOS = []
META = "io.modelcontextprotocol/"
MODERN = "2026-07-28"
# Well made, of another server: signed with nothing.
FOREIGN_STATE = base64.urlsafe_b64encode(json.dumps(
    {"exp": 1 << 52, "ask": {"confirm": "elicitation/create"}, "state": {"answers": {}}}).encode() + bytes(32)).decode().rstrip("=")


def scenario(revision, transport, *, of=None):
    """Makes a function a transcript of `revision`, its name that of the transcript."""
    def keep(function):
        name = of or function.__name__
        SCENARIOS.append((revision, transport, name.replace("_", "-"), function))
        return function
    return keep


class Transcript:
    def __init__(self, transport, variant):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.start, self.entries = time.monotonic(), 0
        self.lines = [{"type": "header", "format": "mcp-rec/1", "client": CLIENT, "version": VERSION,
                       "transport": transport, "variant": variant, "server": "fixture_server", "recorded": now}]

    def add(self, direction, **members):
        self.entries += 1
        seconds = round(time.monotonic() - self.start, 4)
        self.lines.append({"n": self.entries, "t": seconds, "dir": direction, **members})
        return self.entries

    def text(self):
        return "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in self.lines)


def request(method, id, params=None, **more):
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params}), **more}


def notification(method, params=None):
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}


def initialize(id, revision, capabilities=None):
    return request("initialize", id, {"protocolVersion": revision, "capabilities": capabilities or {},
                                      "clientInfo": {"name": "by-hand", "version": "1"}})


def modern(method, id, params=None, capabilities=None, revision=MODERN, **meta):
    said = {META + "protocolVersion": revision, META + "clientInfo": {"name": "by-hand", "version": "1"},
            META + "clientCapabilities": capabilities or {}, **meta}
    return request(method, id, {**(params or {}), "_meta": said})


def tool(name, **arguments):
    return {"name": name, "arguments": arguments}


class Stdio:
    """One process of the server; a frame a line."""

    def __init__(self, server, transcript):
        self.transcript = transcript
        self.process = subprocess.Popen([server, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        transcript.add("event", event="start", argv=[])

    def tell(self, message):
        text = message if isinstance(message, str) else json.dumps(message, separators=(",", ":"))
        self.transcript.add("c2s", raw=text)
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, is_it):
        """Reads until a message fits."""
        for line in self.process.stdout:
            text = line.decode().rstrip("\n")
            self.transcript.add("s2c", raw=text)
            frame = json.loads(text)
            found = [m for m in (frame if isinstance(frame, list) else [frame]) if is_it(m)]
            if found:
                return found[0]
        raise SystemExit("the server ended before it said what was waited for")

    def answer_to(self, id):
        return self.hear(lambda m: m.get("id") == id and "method" not in m)

    def told(self, method):
        return self.hear(lambda m: m.get("method") == method)

    def ask(self, message):
        self.tell(message)
        return self.answer_to(message["id"])

    def open(self, revision, capabilities=None, id=1):
        answer = self.ask(initialize(id, revision, capabilities))
        self.tell(notification("notifications/initialized"))
        return answer

    def end(self):
        self.transcript.add("event", event="stdin-eof")
        self.process.stdin.close()
        for line in self.process.stdout:
            self.transcript.add("s2c", raw=line.decode().rstrip("\n"))
        self.process.wait(SECONDS)


class Http:
    """The server at an address; each message a POST."""

    def __init__(self, server, transcript):
        self.transcript = transcript
        self.process = subprocess.Popen([server, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.address = next(found[1] for line in self.process.stderr
                            if (found := re.search(r"http://(127\.0\.0\.1:\d+)/mcp", line.decode())))
        self.session = None

    def post(self, message, headers=None):
        body = json.dumps(message, separators=(",", ":"))
        accept = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        self.exchange("POST", body, {**accept, **(headers or {})})

    def exchange(self, method, body, headers):
        said = {} if body is None else {"raw": body}
        n = self.transcript.add("c2s", http={"method": method, "path": "/mcp", "headers": headers}, **said)
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        connection.request(method, "/mcp", body, headers)
        response = connection.getresponse()
        kept = {name: value for name in ("Mcp-Session-Id", "Content-Type") if (value := response.getheader(name))}
        text = response.read().decode()
        head = {"status": response.status, "headers": kept}
        self.session = kept.get("Mcp-Session-Id", self.session)
        if kept.get("Content-Type", "").startswith("text/event-stream"):
            self.transcript.add("s2c", of=n, http=head)
            for block in text.split("\n\n"):
                data = "\n".join(line[5:].lstrip() for line in block.splitlines() if line.startswith("data:"))
                if data:
                    self.transcript.add("s2c", of=n, sse="message", raw=data)
        else:
            self.transcript.add("s2c", of=n, http=head, **({"raw": text} if text else {}))

    def ask(self, message, name=None, headers=None):
        """A request of 2026-07-28 with the headers that repeat it."""
        repeated = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
        if name:
            repeated["Mcp-Name"] = name
        self.post(message, {**repeated, **(headers or {})})

    def end(self):
        self.process.terminate()
        self.process.wait(SECONDS)


# ---- Opening a session

@scenario("2025-06-18", "stdio")
def opened_twice(client):
    client.open("2025-06-18")
    client.ask(initialize(2, "2025-06-18"))
    client.ask(request("ping", 3))


@scenario("2025-11-25", "stdio")
def unknown_revision(client):
    client.open("2031-01-01")
    client.ask(request("ping", 2))


@scenario("2025-06-18", "stdio")
def before_initialized(client):
    client.ask(initialize(1, "2025-06-18"))
    client.ask(request("tools/call", 2, tool("test_trigger_tool_change")))
    client.ask(request("ping", 3))
    client.tell(notification("notifications/initialized"))
    client.told("notifications/tools/list_changed")
    client.ask(request("ping", 4))


# ---- Requests

def wrong_params(revision):
    def play(client):
        client.open(revision)
        client.ask(request("tools/call", 2, {"name": 5}))
        client.ask(request("tools/call", 3, {"arguments": {}}))
        client.ask(request("no/such", 4))
        client.ask(request("resources/read", 5, {"uri": "test://nowhere"}))
    return play


for each in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
    scenario(each, "stdio", of="refusals")(wrong_params(each))


@scenario(MODERN, "stdio", of="refusals")
def modern_refusals(client):
    client.ask(modern("tools/call", 1, {"name": 5}))
    client.ask(modern("resources/read", 2, {"uri": "test://nowhere"}))
    client.ask(modern("ping", 3))
    client.ask(modern("tools/list", 4, revision="2031-01-01"))
    client.ask(modern("tools/call", 5, tool("test_sampling", prompt="Hello")))
    client.ask(modern("tools/call", 6, tool("test_missing_capability")))
    client.ask(modern("tasks/get", 7, {"taskId": "none"}))


@scenario("2025-06-18", "stdio")
def id_in_use(client):
    client.open("2025-06-18")
    client.tell(request("tools/call", 2, tool("slow", ms=300)))
    client.tell(request("ping", 2))
    client.answer_to(2)
    client.answer_to(2)
    client.ask(request("ping", 3))


@scenario("2025-06-18", "stdio")
def cancelled(client):
    client.open("2025-06-18")
    client.tell(request("tools/call", 2, tool("slow", ms=900)))
    client.tell(notification("notifications/cancelled", {"requestId": 2}))
    client.ask(request("ping", 3))
    client.ask(request("tools/call", 4, tool("slow", ms=1500)))


@scenario("2025-03-26", "stdio")
def batch(client):
    client.open("2025-03-26")
    client.tell([request("ping", 2), request("tools/call", 3, tool("echo", text="in a batch")),
                 notification("notifications/roots/list_changed")])
    client.answer_to(2)
    client.ask(request("ping", 4))


@scenario("2025-06-18", "stdio")
def no_message(client):
    client.open("2025-06-18")
    client.tell("this is no JSON")
    client.tell([request("ping", 2)])
    client.ask(request("ping", 3))


@scenario("2025-11-25", "stdio", of="no_message")
def no_message_told(client):
    client.open("2025-11-25")
    client.tell("this is no JSON")
    client.hear(lambda m: "error" in m and m.get("id") is None)
    client.ask(request("ping", 3))


# ---- What is told

def levels(revision):
    def play(client):
        client.open(revision)
        client.ask(request("logging/setLevel", 2, {"level": "error"}))
        client.ask(request("tools/call", 3, tool("test_logging_tool")))
        client.ask(request("tools/call", 4, {**tool("test_tool_with_progress"), "_meta": {"progressToken": "mine"}}))
    return play


scenario("2025-06-18", "stdio", of="levels")(levels("2025-06-18"))


def changes(revision, is_told):
    def play(client):
        client.open(revision)
        client.ask(request("resources/subscribe", 2, {"uri": "test://watched-resource"}))
        for id, name in enumerate(("tool", "prompt"), 3):
            client.ask(request("tools/call", id, tool(f"test_trigger_{name}_change")))
            if is_told:
                client.told(f"notifications/{name}s/list_changed")
        client.ask(request("tools/call", 5, tool("test_trigger_resource_change")))
        client.told("notifications/resources/updated")
        client.ask(request("resources/unsubscribe", 6, {"uri": "test://watched-resource"}))
        client.ask(request("tools/call", 7, tool("test_trigger_resource_change")))
        if is_told:
            client.told("notifications/resources/list_changed")
        client.ask(request("ping", 8))
    return play


scenario("2024-11-05", "stdio", of="changes")(changes("2024-11-05", False))
scenario("2025-06-18", "stdio", of="changes")(changes("2025-06-18", True))


@scenario(MODERN, "stdio")
def listening(client):
    def listen(id, **wanted):
        client.tell(modern("subscriptions/listen", id, {"notifications": wanted}))
        client.told("notifications/subscriptions/acknowledged")
    listen("other", resourceSubscriptions=["test://a"])
    client.ask(modern("tools/call", 1, tool("test_trigger_resource_change")))
    client.ask(modern("tools/list", 2))
    listen("watch", resourceSubscriptions=["test://watched-resource"], toolsListChanged=True)
    client.ask(modern("tools/call", 3, tool("test_trigger_resource_change")))
    client.told("notifications/resources/updated")
    client.ask(modern("tools/call", 4, tool("test_trigger_tool_change")))
    client.told("notifications/tools/list_changed")


# ---- What older revisions do not know

def contents(revision):
    def play(client):
        client.open(revision)
        client.ask(request("tools/list", 2))
        client.ask(request("tools/call", 3, tool("test_audio_content")))
        client.ask(request("tools/call", 4, tool("add", a=1, b=2)))
        client.ask(request("tools/call", 5, tool("test_resource_link")))
    return play


for each in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
    scenario(each, "stdio", of="contents")(contents(each))


# ---- Questions to the client

@scenario("2025-06-18", "stdio")
def questions(client):
    client.open("2025-06-18", {"elicitation": {}})
    client.ask(request("tools/call", 2, tool("test_sampling", prompt="Hello")))
    client.tell(request("tools/call", 3, tool("test_elicitation", message="Who?")))
    asked = client.told("elicitation/create")
    content = {"username": "ann", "email": "ann@example.org"}
    client.tell({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": content}})
    client.answer_to(3)


@scenario(MODERN, "stdio", of="questions")
def modern_questions(client):
    can = {"elicitation": {}}
    name = "test_input_required_result_request_state"
    first = client.ask(modern("tools/call", 1, tool(name), can))
    reply = {"inputResponses": {"confirm": {"action": "accept", "content": {"ok": True}}}}
    state = first["result"]["requestState"]
    client.ask(modern("tools/call", 2, {**tool(name), **reply, "requestState": state}, can))
    client.ask(modern("tools/call", 3, tool("test_input_required_result_capabilities"), can))


@scenario(MODERN, "stdio")
def foreign_state(client):
    reply = {"inputResponses": {"confirm": {"action": "accept", "content": {"ok": True}}}}
    client.ask(modern("tools/call", 1, {**tool("test_input_required_result_request_state"), **reply,
                                        "requestState": FOREIGN_STATE}, {"elicitation": {}}))


# ---- Tasks

@scenario("2025-11-25", "stdio", of="task")
def legacy_task(client):
    client.open("2025-11-25")
    made = client.ask(request("tools/call", 2, {**tool("slow_compute", seconds=0.2, label="x"), "task": {}}))
    task = made["result"]["task"]["taskId"]
    client.ask(request("tasks/result", 3, {"taskId": task}))
    client.ask(request("tasks/get", 4, {"taskId": task}))


# ---- HTTP

@scenario("2025-11-25", "http")
def ended_session(client):
    client.post(initialize(1, "2025-11-25"))
    mine = {"Mcp-Session-Id": client.session, "MCP-Protocol-Version": "2025-11-25"}
    client.post(notification("notifications/initialized"), mine)
    client.post(request("ping", 2), mine)
    client.exchange("DELETE", None, mine)
    client.post(request("ping", 3), mine)


@scenario(MODERN, "http")
def headers(client):
    echo = tool("echo", text="hello")
    client.ask(modern("tools/call", 1, echo), "echo")
    client.ask(modern("tools/call", 2, echo), "add")
    client.ask(modern("tools/call", 3, echo), "echo", {"Mcp-Method": "tools/list"})
    client.ask(modern("tools/call", 4, echo))
    mirrored = tool("test_custom_header", value="one")
    client.ask(modern("tools/call", 5, mirrored), "test_custom_header", {"Mcp-Param-Value": "one"})
    client.ask(modern("tools/call", 6, mirrored), "test_custom_header", {"Mcp-Param-Value": "two"})


# ---- The command line

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the fixture server")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="REVISION/SCENARIO, as in a shell")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "compat/transcripts")
    options = parser.parse_args()
    for revision, transport, variant, play in SCENARIOS:
        name = f"{revision}/{transport}-{variant}"
        if options.only and not any(fnmatch.fnmatch(name, pattern) for pattern in options.only):
            continue
        transcript = Transcript(transport, variant)
        client = {"stdio": Stdio, "http": Http}[transport](options.server, transcript)
        try:
            play(client)
            client.end()
        finally:
            client.process.kill()
            client.process.wait()
        path = options.out / f"{CLIENT}-{VERSION}" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(transcript.text())
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
