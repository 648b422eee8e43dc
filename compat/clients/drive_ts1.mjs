// Drives a server through npm @modelcontextprotocol/sdk 1.x; argv[2] is the package's folder.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2];
const root = ["dist/esm", "dist"].map((part) => join(folder, part)).find((path) => existsSync(join(path, "client")));
const { Client } = await import(join(root, "client/index.js"));
const { StdioClientTransport } = await import(join(root, "client/stdio.js"));

const plan = JSON.parse(readFileSync(0, "utf8"));
const transport = new StdioClientTransport({
  command: plan.command,
  args: plan.args,
  env: { ...process.env, ...plan.env },
});
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
