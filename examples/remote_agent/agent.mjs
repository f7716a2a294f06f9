// An agent of AgentKit in JavaScript: node agent.mjs, for a RemoteAgent at http://127.0.0.1:9000/.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.AGENT_SECRET;
const paid = new Map(); // A real shop has a database, with this key as its primary key.

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const [, seconds, code] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(request.headers["agentkit-signature"])) ?? [];
  const signed = createHmac("sha256", secret).update(`${seconds}.`).update(body).digest();
  const isSigned = code && timingSafeEqual(signed, Buffer.from(code, "hex")) && Math.abs(Date.now() / 1000 - +seconds) < 300;
  if (!isSigned) return response.writeHead(401).end("not signed by AgentKit");
  const asked = JSON.parse(body.toString());
  response.setHeader("content-type", "application/x-ndjson");
  if (asked.kind === "tool") return response.end(JSON.stringify(run(asked, String(request.headers["idempotency-key"]))));
  response.write(`${JSON.stringify({ delta: "" })}\n`); // What it says while it works, a line each.
  response.end(JSON.stringify(step(asked)));
}).listen(Number(process.env.PORT ?? 9000), "127.0.0.1");

function step({ messages, state }) {
  const last = messages.at(-1);
  if (last.role === "tool") return { answer: `${last.content} You have bought ${state.bought.length}.` };
  const call = { name: "buy", arguments: { article: last.content }, traits: { needs_approval: true } };
  return { tool_calls: [call], state: { bought: state?.bought ?? [] } };
}

function run({ call }, key) {
  const result = paid.get(key) ?? `Paid for ${call.arguments.article}.`;
  paid.set(key, result);
  return { result, patch: [{ op: "add", path: "/bought/-", value: call.arguments.article }] };
}
