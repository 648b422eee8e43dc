// What both generations of the npm client share: the plan from stdin, one session of it, what was seen on stdout.
import { readFileSync } from "node:fs";

export const plan = JSON.parse(readFileSync(0, "utf8"));

export const server = { command: plan.command, args: plan.args, env: { ...process.env, ...plan.env } };

/** Options of a transport that speaks HTTP. */
export const options = plan.token ? { requestInit: { headers: { Authorization: `Bearer ${plan.token}` } } } : {};

/** Does what the plan says with a connected client, adds what was seen to `seen`, leaves, and prints it. */
export async function drive(client, seen) {
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
  // A client that speaks sessions ends its own before it goes.
  await client.transport?.terminateSession?.();
  await client.close();
  process.stdout.write(JSON.stringify(seen));
}
