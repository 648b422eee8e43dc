// Drives a server through npm @modelcontextprotocol/sdk 1.x; argv[2] is the package's folder.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { drive, options, plan, server } from "./drive_ts.mjs";

const folder = process.argv[2];
const root = ["dist/esm", "dist"].map((part) => join(folder, part)).find((path) => existsSync(join(path, "client")));
const { Client } = await import(join(root, "client/index.js"));

const require = createRequire(join(folder, "package.json"));

async function connection() {
  const url = plan.url && new URL(plan.url);
  switch (plan.over) {
    case "ws": {
      // What Node lacks of what browsers have, applications bring as a package. This one takes a token in the URL.
      globalThis.WebSocket = require("ws").WebSocket;
      const { WebSocketClientTransport } = await import(join(root, "client/websocket.js"));
      return new WebSocketClientTransport(url);
    }
    case "sse": {
      globalThis.EventSource ??= require("eventsource").EventSource ?? require("eventsource");
      const { SSEClientTransport } = await import(join(root, "client/sse.js"));
      return new SSEClientTransport(url, options);
    }
    case "http": {
      const { StreamableHTTPClientTransport } = await import(join(root, "client/streamableHttp.js"));
      return new StreamableHTTPClientTransport(url, options);
    }
    default: {
      const { StdioClientTransport } = await import(join(root, "client/stdio.js"));
      return new StdioClientTransport(server);
    }
  }
}

const transport = await connection();
// These versions keep the negotiated revision to themselves: what they offer is read off the wire, and that they
// stay connected shows that it was accepted.
const seen = {};
const send = transport.send.bind(transport);
transport.send = (message, ...rest) => {
  if (message.method === "initialize") seen.revision = message.params.protocolVersion;
  return send(message, ...rest);
};
const client = new Client({ name: "compat", version: "1" }, { capabilities: {} });
await client.connect(transport);
await drive(client, seen);
