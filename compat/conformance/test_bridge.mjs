// Tests of bridge.mjs against test_server.mjs: `node test_bridge.mjs`. Node 22 or later.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import http from "node:http";
import { createInterface } from "node:readline";
import test from "node:test";
import { fileURLToPath } from "node:url";

const [BRIDGE, SERVER] = ["bridge.mjs", "test_server.mjs"].map((name) => fileURLToPath(new URL(name, import.meta.url)));
const PV = "io.modelcontextprotocol/protocolVersion";
const SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId";
const CLAIM = { [PV]: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} };

/** A bridge with a fresh server behind it, for one test. */
class Bridge {
  static async start(t) {
    const bridge = new Bridge();
    bridge.child = spawn(process.execPath, [BRIDGE, "--", process.execPath, SERVER]);
    t.after(() => bridge.child.kill("SIGKILL"));
    bridge.stderr = "";
    bridge.child.stderr.on("data", (chunk) => (bridge.stderr += chunk));
    bridge.exit = new Promise((resolve) => bridge.child.once("close", resolve));
    for await (const line of createInterface(bridge.child.stdout)) {
      bridge.url = /http:\S+/.exec(line)[0];
      break;
    }
    return bridge;
  }

  async end(code = 0) {
    this.child.kill();
    assert.equal(await this.exit, code, this.stderr);
  }

  post(body, headers = {}, signal = undefined) {
    const text = typeof body === "string" ? body : JSON.stringify({ jsonrpc: "2.0", ...body });
    return fetch(this.url, { method: "POST", body: text, headers: { "MCP-Protocol-Version": "2026-07-28", ...headers }, signal });
  }

  /** A 2026-07-28 request. */
  modern(id, method, params = {}, meta = {}, signal = undefined) {
    return this.post({ id, method, params: { ...params, _meta: { ...CLAIM, ...meta } } }, {}, signal);
  }

  async session() {
    const opened = await this.post({ id: 0, method: "initialize", params: {} });
    assert.equal(opened.status, 200);
    return { "Mcp-Session-Id": opened.headers.get("mcp-session-id") };
  }
}

/** The messages of an event stream, one by one. */
async function* events(response) {
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let at; (at = text.indexOf("\n\n")) >= 0; text = text.slice(at + 2)) {
      yield JSON.parse(/^data: (.*)$/m.exec(text.slice(0, at))[1]);
    }
  }
}

async function all(response) {
  const seen = [];
  for await (const message of events(response)) seen.push(message);
  return seen;
}

/** What the server has received until now, as text. */
async function received(bridge) {
  const answer = await (await bridge.modern("ask-what-came", "received")).json();
  return answer.result.lines;
}

test("bodies reach the server byte for byte, but for line breaks", async (t) => {
  const bridge = await Bridge.start(t);
  const body = `{ "method":"ech\\u006f",\n "id" : 1.0, "params":{"_meta":${JSON.stringify(CLAIM)},"x":123456789012345678901, "é":"\\n\u2028"},\r\n"jsonrpc":"2.0"}`;
  const answer = await (await bridge.post(body)).text();
  assert.equal(JSON.parse(answer).result.line, body.replace("\n", " ").replace("\r\n", " "));
  assert.match(answer, /"id":1\.0,/, "and answers reach the client so");
  await bridge.end();
});

test("ids and progress tokens that clash are renamed and restored", async (t) => {
  const bridge = await Bridge.start(t);
  const calls = ["a", "b"].map((who) => bridge.modern(1, "meet", { who }, { progressToken: "t" }));
  for (const [index, call] of calls.entries()) {
    const [progress, answer] = await all(await call);
    const who = "ab"[index];
    assert.deepEqual(progress.params, { progressToken: "t", progress: 1, message: who });
    assert.deepEqual([answer.id, answer.result.who], [1, who]);
  }
  const lines = await received(bridge);
  assert.equal(new Set(lines.map((line) => JSON.parse(line).id)).size, lines.length, "the server saw no id twice");
  await bridge.end();
});

test("subscription ids are restored, and what is subscribed to goes to its stream", async (t) => {
  const bridge = await Bridge.start(t);
  const streams = await Promise.all(["a", "b"].map((who) => bridge.modern("s", "subscriptions/listen", { who })));
  for (const [index, stream] of streams.entries()) {
    const [acknowledged, end] = await all(stream);
    assert.deepEqual(acknowledged.params, { who: "ab"[index], _meta: { [SUBSCRIPTION]: "s" } });
    assert.deepEqual([end.id, end.result._meta[SUBSCRIPTION]], ["s", "s"]);
  }
  await bridge.end();
});

test("leaving a 2026-07-28 request cancels it, and its late answer reaches nobody", async (t) => {
  const bridge = await Bridge.start(t);
  const leave = new AbortController();
  const stream = events(await bridge.modern(7, "hold", {}, { progressToken: "p" }, leave.signal));
  assert.equal((await stream.next()).value.method, "notifications/progress");
  leave.abort();
  let cancelled;
  while (!(cancelled = (await received(bridge)).find((line) => line.includes("notifications/cancelled"))));
  assert.deepEqual(JSON.parse(cancelled).params, { requestId: 7, _meta: CLAIM });
  const again = await (await bridge.modern(7, "answer-held-first")).json();
  assert.deepEqual([again.id, again.result], [7, { is: "the second" }]);
  await bridge.end();
});

test("errors of 2026-07-28 have their statuses, those of a session have 200", async (t) => {
  const bridge = await Bridge.start(t);
  for (const [code, status] of [[-32601, 404], [-32602, 400], [-32020, 400], [-32021, 400], [-32022, 400], [-32603, 200], [7, 200]]) {
    assert.equal((await bridge.modern(1, "fail", { code })).status, status, `${code}`);
  }
  const session = await bridge.session();
  const failed = await bridge.post({ id: 1, method: "fail", params: { code: -32601 } }, session);
  assert.equal(failed.status, 200);
  await bridge.end();
});

test("a version in the header that is not the body's is refused", async (t) => {
  const bridge = await Bridge.start(t);
  const body = { id: "x", method: "echo", params: { _meta: CLAIM } };
  const refused = await bridge.post(body, { "MCP-Protocol-Version": "2025-11-25" });
  assert.equal(refused.status, 400);
  assert.deepEqual((({ id, error }) => [id, error.code])(await refused.json()), ["x", -32020]);
  await bridge.end();
});

test("a session has a server of its own, which ends with it", async (t) => {
  const bridge = await Bridge.start(t);
  const [one, other] = [await bridge.session(), await bridge.session()];
  const pid = async (session) => (await (await bridge.post({ id: 1, method: "pid" }, session)).json()).result.pid;
  assert.notEqual(await pid(one), await pid(other));
  const wiped = await fetch(bridge.url, { method: "DELETE", headers: one });
  assert.equal(wiped.status, 204);
  assert.equal((await bridge.post({ id: 2, method: "pid" }, one)).status, 404);
  assert.equal((await bridge.post({ id: 2, method: "pid" }, other)).status, 200);
  await bridge.end();
});

test("the server's requests go to the call that caused them, their answers back to it", async (t) => {
  const bridge = await Bridge.start(t);
  const session = await bridge.session();
  const stream = events(await bridge.post({ id: 1, method: "ask" }, session));
  const question = (await stream.next()).value;
  assert.equal(question.method, "roots/list");
  const told = await bridge.post({ id: question.id, result: { roots: [] } }, session);
  assert.equal(told.status, 202);
  assert.deepEqual((await stream.next()).value.result, { answered: { roots: [] } });
  await bridge.end();
});

test("what belongs to no call waits for the GET stream", async (t) => {
  const bridge = await Bridge.start(t);
  const session = await bridge.session();
  assert.equal((await bridge.post({ method: "notifications/news" }, session)).status, 202);
  const stream = await fetch(bridge.url, { headers: session });
  assert.equal((await events(stream).next()).value.method, "notifications/tools/list_changed");
  await bridge.end();
});

test("pages of other names are refused", async (t) => {
  const bridge = await Bridge.start(t);
  const { port } = new URL(bridge.url);
  for (const headers of [{ Host: "evil.example" }, { Origin: "http://evil.example" }, { Origin: "null" }]) {
    // `fetch` sets Host by itself.
    const status = await new Promise((resolve) => {
      const request = http.request({ port, host: "127.0.0.1", path: "/mcp", method: "POST", headers });
      request.on("response", (response) => resolve(response.resume().statusCode));
      request.end("{}");
    });
    assert.equal(status, 403, JSON.stringify(headers));
  }
  await bridge.end();
});

test("a server that ends by itself is a fault, and its successor serves", async (t) => {
  const bridge = await Bridge.start(t);
  const died = await bridge.modern(1, "die");
  assert.equal(died.status, 502);
  assert.equal((await bridge.modern(2, "echo")).status, 200);
  await bridge.end(1);
  assert.match(bridge.stderr, /the server ended although its input was open \(exit code 3\)/);
});

test("a server that writes what is no message is at fault", async (t) => {
  const bridge = await Bridge.start(t);
  assert.equal((await bridge.modern(1, "chat")).status, 200);
  await bridge.end(1);
  assert.match(bridge.stderr, /the server sent what is no JSON: hello there/);
});

test("a command that does not start is a fault, and no client waits for it", async (t) => {
  const bridge = spawn(process.execPath, [BRIDGE, "--", "/no/such/server"]);
  t.after(() => bridge.kill("SIGKILL"));
  let url;
  for await (const line of createInterface(bridge.stdout)) {
    url = /http:\S+/.exec(line)[0];
    break;
  }
  const answer = await fetch(url, { method: "POST", body: '{"jsonrpc":"2.0","id":1,"method":"ping"}' });
  assert.equal(answer.status, 502);
  bridge.kill();
  assert.equal(await new Promise((resolve) => bridge.once("close", resolve)), 1);
});
