#!/usr/bin/env node
// Streamable HTTP in front of an MCP server that speaks stdio or WebSocket, so that what knows URLs only can test it:
//
//     bridge.mjs [--listen 127.0.0.1:PORT] -- COMMAND [ARGUMENT...]
//     bridge.mjs [--listen 127.0.0.1:PORT] --ws URL
//
// Prints `listening on http://127.0.0.1:PORT/mcp`, and serves until SIGTERM or SIGINT. The exit code is 0 if every server
// behind it did what a server on its transport must: it lived until its input was closed, ended then by itself with exit
// code 0, and wrote nothing but JSON-RPC messages. Otherwise it is 1, with a line on stderr for each fault.
//
// README.md beside this file says what passes through untouched and what is made here. Node 22 or later, no packages.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import http from "node:http";

const META = "io.modelcontextprotocol/";
const BODY_BYTES_MAX = 16 * 1024 * 1024;
/** Sessions whose clients left without DELETE; beyond this the one longest idle is ended. */
const SESSIONS_MAX = 32;
/** Messages that wait for a session's GET stream. */
const WAITING_MAX = 256;
/** How long a server may take to end after its input was closed, and again after SIGTERM. */
const END_MS = 5000;
/** The statuses of a 2026-07-28 error; what is not here is 200. Earlier revisions know 200 only. */
const STATUS = { "-32700": 400, "-32600": 400, "-32601": 404, "-32602": 400, "-32020": 400, "-32021": 400, "-32022": 400 };
/** What a server tells on its own account, not for a request in flight. */
const UNASKED = /^notifications\/(.*list_changed|resources\/updated|tasks\/status)$/;

let faults = 0;
function fault(text) {
  faults += 1;
  console.error(`bridge: ${text}`);
}

// ---- JSON as text: a value is found and replaced where it stands, and all around it stays byte for byte -------------

const STRING = /"(?:[^"\\]|\\.)*"/y;
const SCALAR = /[^\s,\]}]+/y;
const BLANK = /\s*/y;

function match(pattern, text, at) {
  pattern.lastIndex = at;
  pattern.test(text);
  return pattern.lastIndex;
}

/** The end of the value that starts at `at`. */
function valueEnd(text, at) {
  if (text[at] === '"') return match(STRING, text, at);
  if (text[at] !== "{" && text[at] !== "[") return match(SCALAR, text, at);
  for (let depth = 0; ; ) {
    const char = text[at];
    if (char === '"') {
      at = match(STRING, text, at);
      continue;
    }
    at += 1;
    if (char === "{" || char === "[") depth += 1;
    else if ((char === "}" || char === "]") && --depth === 0) return at;
  }
}

/** Where the value at `path` stands in `text`, which `JSON.parse` has accepted. Of two with one name it is the last. */
function place(text, path) {
  let at = match(BLANK, text, 0);
  for (const name of path) {
    if (text[at] !== "{") return undefined;
    let found;
    for (let here = match(BLANK, text, at + 1); text[here] !== "}"; here = match(BLANK, text, here)) {
      if (text[here] === ",") {
        here += 1;
        continue;
      }
      const end = match(STRING, text, here);
      const value = match(BLANK, text, match(BLANK, text, end) + 1);
      if (JSON.parse(text.slice(here, end)) === name) found = value;
      here = valueEnd(text, value);
    }
    if (found === undefined) return undefined;
    at = found;
  }
  return [at, valueEnd(text, at)];
}

function textAt(text, path) {
  const found = place(text, path);
  return found && text.slice(...found);
}

function withTextAt(text, path, value) {
  const found = place(text, path);
  return found ? text.slice(0, found[0]) + value + text.slice(found[1]) : text;
}

/** Outside strings a line break is a blank, and inside them JSON has none. */
function oneLine(text) {
  return text.replace(/[\r\n]+/g, " ").trim();
}

// ---- The server behind: a process or a WebSocket connection ----------------------------------------------------------

class Process {
  #child;
  #rest = [];
  #gone;
  #closing = false;

  constructor(command, onMessage, onEnd) {
    this.#child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
    this.#gone = new Promise((resolve) => {
      this.#child.once("error", (error) => {
        fault(`\`${command[0]}\` does not start: ${error.message}`);
        this.#closing = true;
      });
      this.#child.once("close", (code, signal) => {
        const how = signal ?? `exit code ${code}`;
        if (!this.#closing) fault(`the server ended although its input was open (${how})`);
        else if (code !== 0 && this.#child.pid) fault(`the server ended with ${how} when its input was closed`);
        resolve();
        onEnd();
      });
    });
    this.#child.stdin.on("error", () => {}); // It has ended, which `close` tells.
    this.#child.stdout.on("data", (chunk) => {
      for (let at; (at = chunk.indexOf(10)) >= 0; chunk = chunk.subarray(at + 1)) {
        const line = Buffer.concat([...this.#rest, chunk.subarray(0, at)]).toString();
        this.#rest = [];
        onMessage(line);
      }
      if (chunk.length > 0) this.#rest.push(chunk);
    });
  }

  send(text) {
    this.#child.stdin.write(`${oneLine(text)}\n`);
  }

  async close() {
    this.#closing = true;
    this.#child.stdin.end();
    const ended = (signal) => {
      fault(`the server still ran ${END_MS} ms after ${signal === "SIGTERM" ? "its input was closed" : "SIGTERM"}`);
      this.#child.kill(signal);
    };
    const timers = [setTimeout(ended, END_MS, "SIGTERM"), setTimeout(ended, 2 * END_MS, "SIGKILL")];
    await this.#gone;
    timers.forEach(clearTimeout);
  }
}

class Connection {
  #socket;
  #open;
  #gone;
  #closing = false;

  constructor(url, onMessage, onEnd) {
    this.#socket = new WebSocket(url, "mcp");
    this.#open = new Promise((resolve) => this.#socket.addEventListener("open", resolve));
    this.#gone = new Promise((resolve) => {
      let gone = false;
      const end = (text) => {
        if (gone) return;
        gone = true;
        if (!this.#closing) fault(text);
        resolve();
        onEnd();
      };
      // A connection that fails to open has no `close` in every version of Node.
      this.#socket.addEventListener("error", (event) => end(`the WebSocket connection failed: ${event.message || url}`));
      this.#socket.addEventListener("close", ({ code, reason }) => end(`the WebSocket connection ended (code ${code} ${reason})`));
    });
    this.#socket.addEventListener("message", (event) => {
      if (typeof event.data === "string") onMessage(event.data);
      else fault("the server sent a binary WebSocket message");
    });
  }

  async send(text) {
    await this.#open;
    this.#socket.send(text);
  }

  async close() {
    this.#closing = true;
    this.#socket.close(1000);
    const timer = setTimeout(() => {
      fault(`the server did not close the WebSocket connection within ${END_MS} ms`);
      process.exit(1);
    }, END_MS);
    await this.#gone;
    clearTimeout(timer);
  }
}

// ---- One request of a client, and where its messages go --------------------------------------------------------------

function writeError(response, status, id, code, message) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(`{"jsonrpc":"2.0","id":${id ?? "null"},"error":{"code":${code},"message":${JSON.stringify(message)}}}`);
}

function openStream(response, headers = {}) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache", ...headers });
  response.flushHeaders();
}

function writeEvent(response, text) {
  response.write(`event: message\ndata: ${oneLine(text)}\n\n`);
}

class Call {
  /** What the client called it: text of its id and of its progress token. */
  id;
  token;
  /** What it is called towards the server; differs where another call had that name. */
  sentId;
  sentToken;

  constructor(text, message, response, headers) {
    this.message = message;
    this.response = response;
    this.headers = headers;
    this.id = this.sentId = textAt(text, ["id"]);
    this.token = this.sentToken = textAt(text, ["params", "_meta", "progressToken"]);
  }

  get open() {
    return !this.response.writableEnded && !this.response.destroyed;
  }

  /** `text` with the names that the client knows. */
  #restored(text, message) {
    const put = (path, sent, own) => {
      if (sent !== own && textAt(text, path) !== undefined) text = withTextAt(text, path, own);
    };
    if (!("method" in message)) put(["id"], this.sentId, this.id);
    put(["params", "_meta", `${META}subscriptionId`], this.sentId, this.id);
    put(["result", "_meta", `${META}subscriptionId`], this.sentId, this.id);
    if (message.method === "notifications/cancelled") put(["params", "requestId"], this.sentId, this.id);
    if (message.method === "notifications/progress") put(["params", "progressToken"], this.sentToken, this.token);
    return text;
  }

  deliver(text, message, modern) {
    if (!this.open) return;
    text = this.#restored(text, message);
    const last = !("method" in message);
    if (last && !this.response.headersSent) {
      const status = (modern && message.error && STATUS[message.error.code]) || 200;
      this.response.writeHead(status, { "Content-Type": "application/json", ...this.headers });
      this.response.end(text);
      return;
    }
    if (!this.response.headersSent) openStream(this.response, this.headers);
    writeEvent(this.response, text);
    if (last) this.response.end();
  }

  /** The server is gone. */
  fail() {
    if (this.response.headersSent) this.response.destroy();
    else writeError(this.response, 502, this.id, -32603, "the server behind the bridge ended");
  }
}

// ---- One server behind the bridge, for one session or for all that have none -----------------------------------------

class Peer {
  #server;
  #modern;
  /** Calls that wait for an answer, in the order of their coming, by what their id is towards the server. */
  #calls = new Map();
  /** Ids and tokens of cancelled calls. What the server may still say of them must not reach a later call. */
  #spentIds = new Set();
  #spentTokens = new Set();
  /** Which call the server's own requests were sent to. */
  #asks = new Map();
  #stream;
  #waiting = [];
  ended = false;

  constructor(target, modern, onEnd) {
    this.#modern = modern;
    const ended = () => {
      if (this.ended) return;
      this.ended = true;
      for (const call of this.#calls.values()) call.fail();
      this.#stream?.end();
      onEnd();
    };
    const receive = (text) => this.#receive(text);
    this.#server = target.url ? new Connection(target.url, receive, ended) : new Process(target.command, receive, ended);
  }

  get idle() {
    return this.#calls.size === 0 && !this.#stream;
  }

  close() {
    return this.#server.close();
  }

  /** Passes on what nobody waits for: a notification, or an answer to the server's own request. */
  tell(text) {
    this.#server.send(text);
  }

  /** Passes on a request. What the server says of it goes to `response`. */
  call(text, message, response, headers) {
    const call = new Call(text, message, response, headers);
    const id = key(call.id);
    if (this.#calls.has(id) || this.#spentIds.has(id)) {
      if (!this.#modern) {
        return writeError(response, 400, call.id, -32600, "the bridge has a request of this session with this id in flight");
      }
      call.sentId = JSON.stringify(`bridge-${randomUUID()}`);
      text = withTextAt(text, ["id"], call.sentId);
    }
    const token = call.token && key(call.token);
    if (token && (this.#withToken(token) || this.#spentTokens.has(token))) {
      call.sentToken = JSON.stringify(`bridge-${randomUUID()}`);
      text = withTextAt(text, ["params", "_meta", "progressToken"], call.sentToken);
    }
    this.#calls.set(key(call.sentId), call);
    response.on("close", () => this.#left(call));
    this.#server.send(text);
  }

  /** Makes `response` the stream for what belongs to no call. */
  listen(response) {
    if (this.#stream) return response.writeHead(409).end();
    this.#stream = response;
    openStream(response);
    response.on("close", () => (this.#stream = undefined));
    for (const text of this.#waiting.splice(0)) writeEvent(response, text);
  }

  /** A client that leaves a 2026-07-28 request cancels it; one that leaves an older one does not. */
  #left(call) {
    const name = key(call.sentId);
    if (!this.#modern || this.ended || this.#calls.get(name) !== call) return;
    this.#calls.delete(name);
    this.#spentIds.add(name);
    if (call.sentToken) this.#spentTokens.add(key(call.sentToken));
    const { [`${META}protocolVersion`]: version, ...meta } = call.message.params?._meta ?? {};
    delete meta.progressToken;
    const params = `{"requestId":${call.sentId},"_meta":${JSON.stringify({ [`${META}protocolVersion`]: version, ...meta })}}`;
    this.#server.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":${params}}`);
  }

  #receive(text) {
    if (text.trim() === "") return;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return fault(`the server sent what is no JSON: ${text.slice(0, 200)}`);
    }
    // A batch, which 2025-03-26 alone has: each for itself.
    if (Array.isArray(message)) return message.forEach((one) => this.#receive(JSON.stringify(one)));
    if (typeof message !== "object" || message === null) {
      return fault(`the server sent what is no JSON-RPC message: ${text.slice(0, 200)}`);
    }
    if (!("method" in message)) return this.#answer(text, message);
    const call = this.#owner(message);
    if (call) {
      if ("id" in message) this.#asks.set(JSON.stringify(message.id), call);
      return call.deliver(text, message, this.#modern);
    }
    if (this.#stream) writeEvent(this.#stream, text);
    else if (!this.#modern && this.#waiting.length < WAITING_MAX) this.#waiting.push(text);
    else console.error(`bridge: nobody is there for a ${message.method} of the server; dropped`);
  }

  #answer(text, message) {
    const name = JSON.stringify(message.id ?? null);
    const call = this.#calls.get(name);
    if (!call) {
      // The cancel and the answer may have met on the way.
      if (!this.#spentIds.has(name)) fault(`the server answered what nobody asked: ${text.slice(0, 200)}`);
      return;
    }
    this.#calls.delete(name);
    call.deliver(text, message, this.#modern);
  }

  /** The call that a message of the server belongs to. */
  #owner({ method, params }) {
    const meta = params?._meta ?? {};
    const subscription = meta[`${META}subscriptionId`];
    if (subscription !== undefined) return this.#calls.get(JSON.stringify(subscription));
    if (method === "notifications/progress") return this.#withToken(JSON.stringify(params?.progressToken));
    if (method === "notifications/cancelled") {
      const name = JSON.stringify(params?.requestId);
      return this.#asks.get(name) ?? this.#calls.get(name);
    }
    const open = [...this.#calls.values()].filter((call) => call.open);
    const task = meta[`${META}related-task`]?.taskId;
    const waits = task !== undefined && open.findLast((call) => call.message.params?.taskId === task);
    if (waits) return waits;
    if (UNASKED.test(method) && this.#stream) return undefined;
    return open.findLast((call) => call.message.method !== "subscriptions/listen");
  }

  #withToken(name) {
    return [...this.#calls.values()].find((call) => call.sentToken && key(call.sentToken) === name);
  }
}

/** The text of an id as `JSON.stringify` writes it, so that `1.0` and `1` are one. */
function key(text) {
  return JSON.stringify(JSON.parse(text));
}

// ---- The endpoint -----------------------------------------------------------------------------------------------------

class Endpoint {
  #target;
  #sessions = new Map();
  #shared;
  #closing = [];

  constructor(target) {
    this.#target = target;
  }

  async handle(request, response) {
    const { host, origin } = request.headers;
    if (!isLocal(host) || (origin !== undefined && !isLocal(origin.replace(/^https?:\/\//, "")))) {
      return response.writeHead(403).end();
    }
    if (new URL(request.url, "http://localhost").pathname !== "/mcp") return response.writeHead(404).end();
    const id = request.headers["mcp-session-id"];
    const session = this.#sessions.get(id);
    if (id !== undefined && !session) return response.writeHead(404).end();
    if (session) {
      this.#sessions.delete(id); // To the end of the order, which is the one of the last use.
      this.#sessions.set(id, session);
    }
    if (request.method === "POST") return this.#post(request, response, session);
    if (!session) return response.writeHead(405, { Allow: "POST" }).end();
    if (request.method === "GET") return session.listen(response);
    if (request.method !== "DELETE") return response.writeHead(405, { Allow: "POST, GET, DELETE" }).end();
    this.#end(id);
    response.writeHead(204).end();
  }

  async #post(request, response, session) {
    const text = await body(request);
    if (text === undefined) return response.writeHead(413).end();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return writeError(response, 400, null, -32700, "the body is no JSON");
    }
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      return writeError(response, 400, null, -32600, "the body is not one JSON-RPC message");
    }
    const version = message.params?._meta?.[`${META}protocolVersion`];
    const isCall = "method" in message && "id" in message;
    const headers = {};
    if (!session && message.method === "initialize" && version === undefined) {
      const id = randomUUID();
      session = new Peer(this.#target, false, () => this.#sessions.delete(id));
      this.#sessions.set(id, session);
      headers["Mcp-Session-Id"] = id;
      this.#endIdle();
    }
    if (session) {
      if (isCall) return session.call(text, message, response, headers);
      session.tell(text);
      return response.writeHead(202).end();
    }
    // Without a session a request is cancelled by leaving it; what names an id could name another caller's.
    if (!isCall) return response.writeHead(202).end();
    if (version !== undefined && request.headers["mcp-protocol-version"] !== version) {
      return writeError(response, 400, textAt(text, ["id"]), -32020, "MCP-Protocol-Version differs from the body's");
    }
    if (!this.#shared || this.#shared.ended) this.#shared = new Peer(this.#target, true, () => {});
    this.#shared.call(text, message, response, headers);
  }

  #end(id) {
    const session = this.#sessions.get(id);
    this.#sessions.delete(id);
    this.#closing.push(session.close());
  }

  #endIdle() {
    for (const [id, session] of this.#sessions) {
      if (this.#sessions.size <= SESSIONS_MAX) return;
      if (session.idle) this.#end(id);
    }
  }

  async close() {
    for (const id of [...this.#sessions.keys()]) this.#end(id);
    if (this.#shared && !this.#shared.ended) this.#closing.push(this.#shared.close());
    await Promise.all(this.#closing);
  }
}

/** Against DNS rebinding: a page of another name must not reach this. */
function isLocal(host) {
  return ["localhost", "127.0.0.1", "[::1]"].includes(host?.replace(/:\d+$/, ""));
}

async function body(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

// ---- The command line -------------------------------------------------------------------------------------------------

function usage(text) {
  console.error(`bridge: ${text}\nusage: bridge.mjs [--listen HOST:PORT] (--ws URL | -- COMMAND [ARGUMENT...])`);
  process.exit(2);
}

function parse(words) {
  const target = { listen: "127.0.0.1:0" };
  while (words.length > 0) {
    const word = words.shift();
    if (word === "--") {
      target.command = words.splice(0);
    } else if (word === "--ws" || word === "--listen") {
      target[word === "--ws" ? "url" : "listen"] = words.shift() ?? usage(`${word} wants a value`);
    } else {
      usage(`what is ${word}?`);
    }
  }
  if (!target.url === !target.command?.length) usage("either --ws or a command");
  return target;
}

const target = parse(process.argv.slice(2));
if (!globalThis.WebSocket) usage(`Node 22 or later is needed, and this is ${process.version}`);
const endpoint = new Endpoint(target);
const server = http.createServer((request, response) => {
  endpoint.handle(request, response).catch((error) => {
    if (!response.headersSent) writeError(response, 500, null, -32603, "the bridge failed");
    console.error(`bridge: ${error.stack}`);
  });
});
server.requestTimeout = 0;
const [, host, port] = /^(.*):(\d+)$/.exec(target.listen) ?? usage("--listen wants HOST:PORT");
server.on("error", (error) => usage(error.message));
server.listen(Number(port), host, () => console.log(`listening on http://${host}:${server.address().port}/mcp`));

let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  server.close();
  await endpoint.close();
  process.exit(faults === 0 ? 0 : 1);
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
