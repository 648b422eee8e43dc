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
  if (plan.tasks) {
    seen.tasks = [];
    for (const [name, args] of plan.tasks) {
      const task = { statuses: [] };
      const told = client.experimental.tasks.callToolStream({ name, arguments: args }, undefined, { task: { ttl: 60_000 } });
      for await (const { type, task: stands, result, error } of told) {
        if (type === "error") throw error;
        if (type === "result") Object.assign(task, { isError: Boolean(result.isError), text: result.content[0].text });
        else Object.assign(task, { id: stands.taskId, statuses: [...task.statuses, stands.status] });
      }
      seen.tasks.push(task);
    }
    seen.kept = (await client.experimental.tasks.listTasks()).tasks.map((task) => [task.taskId, task.status]);
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
  seen.completions = [];
  for (const [name, argument] of plan.completions ?? []) {
    seen.completions.push((await client.complete({ ref: { type: "ref/prompt", name }, argument })).completion.values);
  }
  // A client that speaks sessions ends its own before it goes.
  await client.transport?.terminateSession?.();
  await client.close();
  process.stdout.write(JSON.stringify(seen));
}
