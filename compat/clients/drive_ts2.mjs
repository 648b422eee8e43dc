// Drives a server through npm @modelcontextprotocol/client 2.x; argv[2] is the package's folder.
import { join } from "node:path";
import { drive, options, plan, server } from "./drive_ts.mjs";

const folder = process.argv[2];
const { Client, StreamableHTTPClientTransport } = await import(join(folder, "dist/index.mjs"));
const { StdioClientTransport } = await import(join(folder, "dist/stdio.mjs"));

const mode = ["auto", "legacy"].includes(plan.mode) ? plan.mode : { pin: plan.mode };
const client = new Client({ name: "compat", version: "1" }, { capabilities: {}, versionNegotiation: { mode } });
const transport =
  plan.over === "http" ? new StreamableHTTPClientTransport(new URL(plan.url), options) : new StdioClientTransport(server);
await client.connect(transport);
await drive(client, { revision: client.getNegotiatedProtocolVersion() });
