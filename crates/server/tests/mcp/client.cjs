// npm's client of MCP against AgentKit as a server: node client.cjs BINARY DATABASE URL, where "My boat is called Argo." was
// said. Ends with an error where something is not as it must be.
const assert = require("node:assert/strict");
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");

const [binary, database, url] = process.argv.slice(2);

function program(args) {
  const env = { DATABASE_URL: database, PATH: process.env.PATH };
  return new StdioClientTransport({ command: binary, args: ["mcp", ...args], env });
}

async function connected(transport) {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(transport);
  await client.ping();
  assert.equal(client.getServerVersion().name, "agentkit");
  return client;
}

async function call(client, name, args) {
  const result = await client.callTool({ name, arguments: args });
  assert.deepEqual(result.content.map((part) => part.type), ["text"]);
  return [result.content[0].text, result.isError ?? false];
}

async function names(client) {
  const { tools } = await client.listTools();
  for (const tool of tools) {
    assert.equal(tool.inputSchema.type, "object");
    assert.equal(tool.annotations.readOnlyHint, tool.name !== "remember");
  }
  return tools.map((tool) => tool.name).sort();
}

async function remembers(client, value) {
  assert.deepEqual(await names(client), ["recall", "remember", "search_history"]);
  const fact = { name: "Colour", value };
  assert.deepEqual(await call(client, "remember", fact), [`Remembered: colour = ${value}`, false]);
  assert.deepEqual(await call(client, "recall", { name: "colour" }), [value, false]);
  const [found, failed] = await call(client, "search_history", { words: "argo BOAT" });
  assert.ok(!failed && found.endsWith("user: My boat is called Argo."), found);
  const [refused, isError] = await call(client, "recall", { title: "colour" });
  assert.ok(isError && refused.includes("arguments do not fit"), refused);
  await assert.rejects(client.callTool({ name: "forget", arguments: {} }));
}

async function reads(client) {
  assert.deepEqual(await names(client), ["recall", "search_history"]);
  assert.deepEqual(await call(client, "recall", {}), ["colour: red", false]);
  const fact = { name: "colour", value: "blue" };
  const refused = await client.callTool({ name: "remember", arguments: fact }).then(
    (result) => result.isError,
    () => true,
  );
  assert.ok(refused);
}

async function main() {
  const http = await connected(new StreamableHTTPClientTransport(new URL(url)));
  await remembers(http, "green");
  const writer = await connected(program(["--write"]));
  await remembers(writer, "red");
  const reader = await connected(program([]));
  await reads(reader);
  for (const client of [http, writer, reader]) await client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
