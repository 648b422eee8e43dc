// Drives a server through npm @modelcontextprotocol/sdk 1.x; argv[2] is the package's folder.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { drive, server } from "./drive_ts.mjs";

const folder = process.argv[2];
const root = ["dist/esm", "dist"].map((part) => join(folder, part)).find((path) => existsSync(join(path, "client")));
const { Client } = await import(join(root, "client/index.js"));
const { StdioClientTransport } = await import(join(root, "client/stdio.js"));

const transport = new StdioClientTransport(server);
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
