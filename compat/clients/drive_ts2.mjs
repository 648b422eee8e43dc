// Drives a server through npm @modelcontextprotocol/client 2.x; argv[2] is the package's folder.
import { join } from "node:path";
import { drive, plan, server } from "./drive_ts.mjs";

const folder = process.argv[2];
const { Client } = await import(join(folder, "dist/index.mjs"));
const { StdioClientTransport } = await import(join(folder, "dist/stdio.mjs"));

const mode = ["auto", "legacy"].includes(plan.mode) ? plan.mode : { pin: plan.mode };
const client = new Client({ name: "compat", version: "1" }, { capabilities: {}, versionNegotiation: { mode } });
await client.connect(new StdioClientTransport(server));
await drive(client, { revision: client.getNegotiatedProtocolVersion() });
