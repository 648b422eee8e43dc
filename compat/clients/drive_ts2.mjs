// Drives a server through npm @modelcontextprotocol/client 2.x; argv[2] is the package's folder.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2];
const { Client } = await import(join(folder, "dist/index.mjs"));
const { StdioClientTransport } = await import(join(folder, "dist/stdio.mjs"));

const plan = JSON.parse(readFileSync(0, "utf8"));
const mode = ["auto", "legacy"].includes(plan.mode) ? plan.mode : { pin: plan.mode };
const client = new Client({ name: "compat", version: "1" }, { capabilities: {}, versionNegotiation: { mode } });
await client.connect(
  new StdioClientTransport({ command: plan.command, args: plan.args, env: { ...process.env, ...plan.env } }),
);
const seen = { revision: client.getNegotiatedProtocolVersion() };
seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
seen.calls = [];
for (const [name, args] of plan.calls) {
  const result = await client.callTool({ name, arguments: args });
  seen.calls.push({ isError: Boolean(result.isError), text: result.content[0].text });
}
seen.listed = {
  resources: (await client.listResources()).resources.map((resource) => resource.uri),
  prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
};
seen.resources = [];
for (const uri of plan.resources) seen.resources.push((await client.readResource({ uri })).contents[0].text);
seen.prompts = [];
for (const [name, args] of plan.prompts) {
  seen.prompts.push((await client.getPrompt({ name, arguments: args })).messages[0].content.text);
}
await client.close();
process.stdout.write(JSON.stringify(seen));
