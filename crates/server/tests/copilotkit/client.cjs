// CopilotKit in front of a server: node client.cjs SCENARIO URL...
//
// Its runtime listens on a port of its own and has AgentKit for an agent; its front end, without React, talks to
// that runtime alone. Ends with an error where something is not as it must be.
//
// The runtime does not pass everything on. What an application adds is here: `Agent` and `Runner`, some 30 lines.
// - Its runner answers `connect` by what that process remembers. `Runner` asks the server.
// - `stop` ends the connection of the run. `Agent` tells the server too, where a turn goes on without a reader.
process.env.COPILOTKIT_TELEMETRY_DISABLED = "true";
globalThis.window = { location: new URL("http://127.0.0.1/") }; // Elsewhere the front end looks for no runtime.
const assert = require("node:assert/strict");
const http = require("node:http");
const { CopilotRuntime, InMemoryAgentRunner } = require("@copilotkit/runtime/v2");
const { createCopilotNodeListener } = require("@copilotkit/runtime/v2/node");
const { CopilotKitCore } = require("@copilotkit/core");
const { HttpAgent } = require("@ag-ui/client");
const { z } = require("zod");

const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));
console.error = () => {};

class Agent extends HttpAgent {
  abortRun() {
    const body = JSON.stringify({ threadId: this.threadId });
    const headers = { "content-type": "application/json" };
    fetch(`${this.url}/cancel`, { method: "POST", headers, body }).catch(() => {});
  }
}

class Runner extends InMemoryAgentRunner {
  constructor(server) {
    super();
    this.server = server;
  }

  connect({ threadId, headers }) {
    const agent = new HttpAgent({ url: `${this.server}/agui/connect`, threadId, headers });
    const nothing = { messages: [], state: {}, tools: [], context: [], forwardedProps: {} };
    return agent.run({ threadId, runId: crypto.randomUUID(), ...nothing });
  }
}

/** A runtime before the server. */
async function runtime(server) {
  const runtime = new CopilotRuntime({
    agents: { default: new Agent({ url: `${server}/agui` }) },
    runner: new Runner(server),
  });
  const listener = createCopilotNodeListener({ runtime, basePath: "/api/copilotkit" });
  const listening = http.createServer(listener);
  await new Promise((done) => listening.listen(0, "127.0.0.1", done));
  return `http://127.0.0.1:${listening.address().port}/api/copilotkit`;
}

/** A front end of the runtime, in a thread. */
class FrontEnd {
  constructor(runtimeUrl, threadId, tools = []) {
    this.core = new CopilotKitCore({ runtimeUrl, tools });
    this.threadId = threadId;
    this.events = [];
    this.errors = [];
    this.core.subscribe({ onError: ({ error, code }) => void this.errors.push({ error, code }) });
  }

  async open() {
    for (let round = 0; !this.core.getAgent("default") || this.core.runtimeConnectionStatus !== "connected"; round++) {
      assert.ok(round < 500, `no runtime: ${JSON.stringify(this.errors)}`);
      await pause();
    }
    this.agent = this.core.getAgent("default");
    this.agent.threadId = this.threadId;
    this.agent.subscribe({ onEvent: ({ event }) => void this.events.push(event) });
    return this;
  }

  say(content) {
    this.agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
    return this.run();
  }

  async run(options = {}) {
    this.events.length = 0;
    await this.core.runAgent({ agent: this.agent, ...options });
  }

  async connect() {
    this.events.length = 0;
    await this.core.connectAgent({ agent: this.agent });
  }

  types() {
    return this.events.map(({ type }) => type);
  }

  last() {
    return this.events.at(-1);
  }

  talk() {
    const said = this.agent.messages.filter(({ role, content }) => content && role !== "tool");
    return said.map(({ role, content }) => [role, content]);
  }
}

const open = async (runtimeUrl, threadId, tools) => await new FrontEnd(runtimeUrl, threadId, tools).open();

const pause = () => new Promise((done) => setTimeout(done, 20));

const get = async (url) => (await fetch(url)).json();

/** What the front end shows is what the server has stored. */
async function agrees(server, front) {
  const { items } = await get(`${server}/conversations`);
  const chat = items.find(({ id, metadata }) => [id, metadata?.agui_thread_id].includes(front.threadId));
  const { items: messages } = await get(`${server}/conversations/${chat.id}/messages`);
  const { values } = await get(`${server}/chats/${chat.id}/state`);
  assert.deepEqual(front.talk(), messages.map(({ role, content }) => [role, content]));
  assert.deepEqual(front.agent.state, values.state);
  assert.deepEqual(front.errors, []);
}

const scenarios = {
  async chat(server) {
    for (const threadId of [crypto.randomUUID(), "a thread / 线程"]) {
      const front = await open(await runtime(server), threadId);
      await front.say("My name is Ada. What is 17 * 23?");
      assert.equal(front.last().outcome.type, "success");
      assert.match(front.agent.messages.at(-1).content, /391/);
      assert.deepEqual(front.agent.state, { facts: { name: "Ada" } });
      await front.say("What is my name?");
      assert.match(front.agent.messages.at(-1).content, /Ada/);
      await agrees(server, front);
      // Another front end, by a runtime that remembers nothing.
      const other = await open(await runtime(server), threadId);
      await other.connect();
      await agrees(server, other);
      await other.say("What is 2 + 3?");
      assert.match(other.agent.messages.at(-1).content, /5/);
      await agrees(server, other);
      const nobody = await open(await runtime(server), crypto.randomUUID());
      await nobody.connect();
      assert.deepEqual([nobody.agent.messages, nobody.errors], [[], []]);
    }
  },

  // Another front end is told what goes on, by another runtime, when the first one has gone away.
  async reconnect(server) {
    const front = await open(await runtime(server), "another page");
    let other;
    front.agent.subscribe({
      onToolCallEndEvent: () => {
        other ??= runtime(server).then((url) => open(url, "another page"));
      },
    });
    const said = front.say("My name is Ada. What is 17 * 23?");
    while (!other) await pause();
    other = await other;
    await other.connect();
    assert.ok(other.types().includes("TOOL_CALL_RESULT"));
    assert.equal(other.last().outcome.type, "success");
    assert.match(other.agent.messages.at(-1).content, /391/);
    await agrees(server, other);
    await said;
    await agrees(server, front);
  },

  async cancel(server) {
    const front = await open(await runtime(server), "no more");
    let stopped = false;
    front.agent.subscribe({
      onToolCallEndEvent: () => {
        if (!stopped) front.core.stopAgent({ agent: front.agent });
        stopped = true;
      },
    });
    await front.say("My name is Ada. What is 17 * 23?");
    assert.equal(front.last().type, "RUN_FINISHED");
    const steps = front.types().filter((type) => type.startsWith("STEP_"));
    assert.equal(steps.length % 2, 0);
    const { items } = await get(`${server}/conversations`);
    const { items: turns } = await get(`${server}/chats/${items[0].id}/turns`);
    assert.deepEqual(turns.map(({ status }) => status), ["cancelled"]);
    await front.say("What is 2 + 3?");
    assert.match(front.agent.messages.at(-1).content, /5/);
    await agrees(server, front);
  },

  // Says "running" when the server is to be killed.
  async kill(first, second) {
    const front = await open(await runtime(first), "lives on");
    // The client throws the end of the connection once more, where nobody catches it.
    process.on("unhandledRejection", (error) => assert.equal(error.message, "terminated"));
    front.agent.subscribe({ onToolCallEndEvent: () => void process.stdout.write("running\n") });
    await front.say("My name is Ada. What is 17 * 23?").catch(() => {});
    assert.equal(front.last().type, "RUN_ERROR");
    const other = await open(await runtime(second), "lives on");
    await other.connect();
    assert.equal(other.last().outcome.type, "success");
    assert.match(other.agent.messages.at(-1).content, /391/);
    const calls = other.agent.messages.flatMap(({ toolCalls }) => toolCalls ?? []);
    assert.equal(calls.length, 2);
    await agrees(second, other);
  },

  async interrupt(server) {
    const front = await open(await runtime(server), "a question");
    await front.say("ask");
    assert.equal(front.last().outcome.type, "interrupt");
    const [asked] = front.agent.pendingInterrupts;
    assert.equal(asked.message, "Which one?");
    // Another front end that knows the thread alone is asked too.
    const other = await open(await runtime(server), "a question");
    await other.connect();
    assert.equal(other.agent.pendingInterrupts[0].id, asked.id);
    const resume = [{ interruptId: asked.id, status: "resolved", payload: "the red one" }];
    await other.run({ resume });
    assert.equal(other.last().outcome.type, "success");
    assert.match(other.agent.messages.at(-1).content, /the red one/);
    await agrees(server, other);
  },

  async approval(server) {
    const front = await open(await runtime(server), "an approval");
    await front.say("pay");
    const [asked] = front.agent.pendingInterrupts;
    assert.deepEqual([asked.reason, asked.toolCallId], ["tool_call", "pay"]);
    assert.deepEqual(asked.metadata, { toolName: "pay", arguments: {} });
    await front.run({ resume: [{ interruptId: asked.id, status: "resolved", payload: { approved: true } }] });
    assert.equal(front.agent.messages.at(-1).content, "result-pay result-b");
    await agrees(server, front);
  },

  async parts(server) {
    const source = { type: "data", value: "aGVsbG8=", mimeType: "image/png" };
    const content = [{ type: "text", text: "My name is Ada." }, { type: "image", source }];
    const front = await open(await runtime(server), "parts");
    await front.say(content);
    assert.match(front.agent.messages.at(-1).content, /Ada/);
    const other = await open(await runtime(server), "parts");
    await other.connect();
    assert.deepEqual(other.agent.messages[0].content, content);
    await other.say("What is my name?");
    assert.match(other.agent.messages.at(-1).content, /Ada/);
    assert.deepEqual([front.errors, other.errors], [[], []]);
  },

  async tools(server) {
    const done = [];
    const tool = (name, result) => ({
      name,
      description: `Does ${name}`,
      parameters: z.object({}),
      handler: async () => (done.push(name), result),
    });
    const front = await open(await runtime(server), "tools", [tool("pick", "red"), tool("look", "nothing")]);
    front.core.addContext({ description: "The page", value: "the-page" });
    front.core.setProperties({ locale: "zh" });
    await front.say("client");
    assert.deepEqual(done.sort(), ["look", "pick"]);
    assert.equal(front.agent.messages.at(-1).content, 'red nothing result-own the-page {"locale":"zh"}');
    assert.deepEqual(front.errors, []);
  },

  async failure(server) {
    const front = await open(await runtime(server), "a failure");
    await front.say("refuse");
    const { type, message, code } = front.last();
    assert.deepEqual([type, message, code], ["RUN_ERROR", "the model refused: no such model", "agent-failed"]);
    assert.equal(front.errors.length, 1);
    await front.say("hello");
    assert.equal(front.last().outcome.type, "success");
  },
};

const [scenario, ...servers] = process.argv.slice(2);
scenarios[scenario](...servers).then(
  () => assert.deepEqual(warnings, []),
).then(() => process.exit(0), (error) => {
  process.stderr.write(`${scenario}: ${error.stack}\n${JSON.stringify(warnings)}\n`);
  process.exit(1);
});
