// What test_bridge.mjs puts behind the bridge: each method does what one of its tests needs.

const lines = [];
const [meeting, listening] = [[], []];
let [held, asking] = [];
const write = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
const result = (id, value) => write({ id, result: value });
const methods = {
  initialize: ({ id }) => result(id, {}),
  echo: ({ id }, line) => process.stdout.write(`{"jsonrpc":"2.0","id":${id === 1 ? "1.0" : id},"result":{"line":${JSON.stringify(line)}}}\n`),
  received: ({ id }) => result(id, { lines }),
  pid: ({ id }) => result(id, { pid: process.pid }),
  fail: ({ id, params }) => write({ id, error: { code: params.code, message: "as asked" } }),
  // Both have come before either is answered, the second one first.
  meet(message) {
    if (meeting.push(message) < 2) return;
    for (const { id, params } of meeting.reverse()) {
      const { progressToken } = params._meta;
      write({ method: "notifications/progress", params: { progressToken, progress: 1, message: params.who } });
      result(id, { who: params.who });
    }
  },
  "subscriptions/listen"(message) {
    if (listening.push(message) < 2) return;
    for (const { id, params } of listening.reverse()) {
      const _meta = { "io.modelcontextprotocol/subscriptionId": id };
      write({ method: "notifications/subscriptions/acknowledged", params: { who: params.who, _meta } });
      result(id, { _meta });
    }
  },
  hold({ id, params }) {
    held = id;
    write({ method: "notifications/progress", params: { progressToken: params._meta.progressToken, progress: 1 } });
  },
  "answer-held-first"({ id }) {
    result(held, { is: "the first" });
    result(id, { is: "the second" });
  },
  ask({ id }) {
    asking = id;
    write({ id: "question", method: "roots/list" });
  },
  "notifications/news": () => write({ method: "notifications/tools/list_changed" }),
  die: () => process.exit(3),
  chat({ id }) {
    process.stdout.write("hello there\n");
    result(id, {});
  },
};
let rest = "";
process.stdin.setEncoding("utf8").on("data", (chunk) => {
  rest += chunk;
  for (let at; (at = rest.indexOf("\n")) >= 0; rest = rest.slice(at + 1)) {
    const line = rest.slice(0, at);
    lines.push(line);
    const message = JSON.parse(line);
    if (message.id === "question") result(asking, { answered: message.result });
    else methods[message.method]?.(message, line);
  }
});
