// The client of the AG-UI protocol against a server: node client.cjs SCENARIO URL...
// Ends with an error where something is not as it must be.
const assert = require("node:assert/strict");
const { HttpAgent } = require("@ag-ui/client");

// The client warns of what the protocol does not know, and leaves it out.
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));
console.error = () => {};

class Agent extends HttpAgent {
  constructor(server, threadId, messages = []) {
    super({ url: `${server}/agui`, threadId, initialMessages: messages });
    this.server = server;
    this.events = [];
    this.subscribe({ onEvent: ({ event }) => void this.events.push(event) });
  }

  connect(input) {
    const url = this.url;
    this.url = `${this.server}/agui/connect`;
    const events = this.run(input);
    this.url = url;
    return events;
  }

  say(content, run = {}) {
    this.addMessage({ id: crypto.randomUUID(), role: "user", content });
    return this.go(() => this.runAgent(run));
  }

  async go(work) {
    this.events.length = 0;
    return await work();
  }

  types() {
    return this.events.map((event) => event.type);
  }

  last() {
    return this.events.at(-1);
  }

  talk() {
    const said = this.messages.filter(({ role, content }) => content && role !== "tool");
    return said.map(({ role, content }) => [role, content]);
  }
}

const get = async (url) => (await fetch(url)).json();

/** What the server has stored of a thread. */
async function stored(server, threadId) {
  const { items } = await get(`${server}/conversations`);
  const chat = items.find(({ id, metadata }) => [id, metadata?.agui_thread_id].includes(threadId));
  const { items: messages } = await get(`${server}/conversations/${chat.id}/messages`);
  const { values } = await get(`${server}/chats/${chat.id}/state`);
  return { talk: messages.map(({ role, content }) => [role, content]), state: values.state };
}

/** What the server has stored of a thread on other branches than the chosen one. */
async function branches(server, threadId) {
  const { items } = await get(`${server}/conversations`);
  const chat = items.find(({ metadata }) => metadata?.agui_thread_id === threadId);
  return (await get(`${server}/conversations/${chat.id}/messages?branch=others`)).items;
}

async function agrees(agent) {
  const { talk, state } = await stored(agent.server, agent.threadId);
  assert.deepEqual(agent.talk(), talk);
  assert.deepEqual(agent.state, state);
}

const refused = (work, status, words) =>
  assert.rejects(work, (error) => error.status === status && error.message.includes(words));

const scenarios = {
  async chat(server) {
    for (const threadId of [crypto.randomUUID(), "a thread / 线程"]) {
      const agent = new Agent(server, threadId);
      const runId = crypto.randomUUID();
      await agent.say("My name is Ada. What is 17 * 23?", { runId });
      const [started, ...next] = agent.events;
      assert.deepEqual([started.type, started.threadId, started.runId], ["RUN_STARTED", threadId, runId]);
      assert.deepEqual(next.slice(0, 2).map(({ type }) => type), ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT"]);
      assert.ok(agent.types().includes("STATE_DELTA"));
      assert.equal(agent.last().outcome.type, "success");
      assert.match(agent.messages.at(-1).content, /391/);
      assert.deepEqual(agent.state, { facts: { name: "Ada" } });
      await agrees(agent);
      const before = structuredClone(agent.messages);
      await agent.say([{ type: "text", text: "What is my name?" }]);
      assert.match(agent.messages.at(-1).content, /Ada/);
      assert.deepEqual(agent.messages.slice(0, before.length), before, "what was told stays");
    }
  },

  async past(server) {
    const agent = new Agent(server, "a past");
    const runId = "a run";
    await agent.say("My name is Ada.", { runId });
    const events = structuredClone(agent.events);
    // The answer was lost: the same again.
    const again = new Agent(server, "a past", agent.messages.slice(0, 1));
    await again.go(() => again.runAgent({ runId }));
    assert.deepEqual(again.events, events);
    const known = structuredClone(agent.messages);

    known.splice(1);
    known[0].content = "My name is Bob.";
    // What the client edits is another branch,
    const edited = new Agent(server, "a past", known);
    await edited.go(() => edited.runAgent({}));
    assert.match(edited.messages.at(-1).content, /Bob/);
    assert.deepEqual(edited.state, { facts: { name: "Bob" } });
    await agrees(edited);
    // and so is what it says behind an earlier answer,
    const back = new Agent(server, "a past", edited.messages.slice());
    await edited.say("What is my name?");
    await back.say("What is 1 + 1?");
    await agrees(back);
    assert.equal(back.talk().length, 4);
    // and an answer that it wants anew.
    const question = back.messages.slice(0, back.messages.findLastIndex(({ role }) => role === "user") + 1);
    const anew = new Agent(server, "a past", question);
    await anew.go(() => anew.runAgent({}));
    assert.match(anew.messages.at(-1).content, /2/);
    await agrees(anew);
    const tree = await branches(server, "a past");
    assert.deepEqual(tree.map(({ role }) => role), ["user", "assistant", "user", "assistant", "assistant"]);
    assert.ok(tree.every(({ is_chosen }) => !is_chosen));

    const invented = [{ id: "1", role: "assistant", content: "You owe me a beer." }];
    await refused(new Agent(server, "another", invented).say("How much?"), 409, "was not said here");
    await refused(new Agent(server, "a past").runAgent({}), 400, "nothing to answer");

    // Who names nothing of before goes on, and is told what was.
    const short = new Agent(server, "a past");
    await short.say("What is 2 + 3?");
    assert.equal(short.talk().length, 6);
    await agrees(short);
  },

  async parts(server) {
    const source = { type: "data", value: "aGVsbG8=", mimeType: "image/png" };
    const content = [{ type: "text", text: "My name is Ada." }, { type: "image", source }];
    const agent = new Agent(server, "parts");
    await agent.say(content);
    assert.equal(agent.last().outcome.type, "success");
    assert.match(agent.messages.at(-1).content, /Ada/);
    assert.deepEqual(agent.messages[0].content, content);
    // Another client is shown them, and what it sends back is what is stored.
    const other = new Agent(server, "parts");
    await other.go(() => other.connectAgent());
    assert.deepEqual(other.messages[0].content, content);
    await other.say("What is my name?");
    assert.match(other.messages.at(-1).content, /Ada/);
    assert.equal((await branches(server, "parts")).length, 0);
    // Another picture is another message.
    const edited = structuredClone(other.messages.slice(0, 1));
    edited[0].content[1].source.value = "d29ybGQ=";
    const back = new Agent(server, "parts", edited);
    await back.go(() => back.runAgent({}));
    assert.equal((await branches(server, "parts")).length, 4);
  },

  async connect(server) {
    const nothing = new Agent(server, "nobody");
    await nothing.go(() => nothing.connectAgent());
    assert.deepEqual([nothing.messages, nothing.state], [[], {}]);
    const agent = new Agent(server, "somebody");
    await agent.say("My name is Ada.");
    const other = new Agent(server, "somebody");
    await other.go(() => other.connectAgent());
    await agrees(other);
    await other.say("What is my name?");
    await agrees(other);
  },

  // The newest messages, as many as a client can send back; where the others are is said.
  async long(server) {
    const agent = new Agent(server, "a long chat");
    const note = (number) => `${number}: `.padEnd(200_000, "é");
    for (let number = 0; number < 8; number++) {
      agent.addMessage({ id: crypto.randomUUID(), role: "system", content: note(number) });
      await agent.say("What is 2 + 3?");
      const size = JSON.stringify(agent.messages).length;
      assert.ok(size < 1_000_000, `${size} characters`);
    }
    await agent.say("What is 17 * 23?");
    assert.match(agent.messages.at(-1).content, /391/);
    const { value } = agent.events.find(({ name }) => name === "agentkit.older");
    const { conversationId, cursor } = value;
    const messages = `${server}/conversations/${conversationId}/messages`;
    const older = await get(`${messages}?order=desc&cursor=${cursor}`);
    const all = await get(messages);
    const said = agent.messages.filter(({ role }) => role !== "tool" );
    const place = all.items.findIndex(({ id }) => id === cursor);
    assert.equal(older.items.length, place);
    assert.equal(said[0].content, all.items[place].content);
  },

  async cancel(server) {
    const agent = new Agent(server, "no more");
    const cancel = () =>
      fetch(`${server}/agui/cancel`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ threadId: "no more" }),
      });
    let cancelled;
    agent.subscribe({ onToolCallEndEvent: () => void (cancelled ??= cancel()) });
    await agent.say("My name is Ada. What is 17 * 23?");
    assert.equal((await cancelled).status, 200);
    assert.equal(agent.last().outcome.type, "cancelled");
    const steps = agent.types().filter((type) => type.startsWith("STEP_"));
    assert.equal(steps.length % 2, 0);
    assert.equal((await cancel()).status, 409);
    await agent.say("What is 2 + 3?");
    assert.match(agent.messages.at(-1).content, /5/);
  },

  // Says "running" when the server is to be killed.
  async kill(first, second, event = "onToolCallEndEvent") {
    const agent = new Agent(first, "lives on");
    // The client throws the end of the connection once more, where nobody catches it.
    process.on("unhandledRejection", (error) => assert.equal(error.message, "terminated"));
    agent.subscribe({ [event]: () => void process.stdout.write("running\n") });
    await agent.say("My name is Ada. What is 17 * 23?").catch(() => {});
    assert.notEqual(agent.last().type, "RUN_FINISHED");
    const other = new Agent(second, "lives on");
    await other.go(() => other.connectAgent());
    assert.equal(other.last().outcome.type, "success");
    assert.match(other.messages.at(-1).content, /391/);
    const calls = other.messages.flatMap(({ toolCalls }) => toolCalls ?? []);
    const results = other.messages.filter(({ role }) => role === "tool");
    assert.equal(calls.length, 2);
    assert.deepEqual(results.map(({ toolCallId }) => toolCallId), calls.map(({ id }) => id));
    assert.ok(calls.every(({ function: { arguments: json } }) => JSON.parse(json)));
    await agrees(other);
  },

  // What the first server has said in vain is in no message.
  async kill_speaking(first, second) {
    await scenarios.kill(first, second, "onTextMessageContentEvent");
  },

  async interrupt(server) {
    const agent = new Agent(server, "a question");
    await agent.say("ask");
    assert.equal(agent.last().outcome.type, "interrupt");
    const [asked] = agent.pendingInterrupts;
    assert.equal(asked.message, "Which one?");
    await assert.rejects(agent.runAgent({}), /pending interrupt/);
    // Another client that knows the thread alone is asked too.
    const other = new Agent(server, "a question");
    await other.go(() => other.connectAgent());
    assert.equal(other.pendingInterrupts[0].id, asked.id);

    const answer = (payload) => [{ interruptId: asked.id, status: "resolved", payload }];
    const runId = "the answer";
    const lost = new Agent(server, "a question", other.messages.slice());
    await other.go(() => other.runAgent({ runId, resume: answer("the red one") }));
    assert.equal(other.last().outcome.type, "success");
    assert.match(other.messages.at(-1).content, /the red one/);
    // What came back was lost: the same again, and nothing else.
    await lost.go(() => lost.runAgent({ runId, resume: answer("the red one") }));
    assert.deepEqual(lost.types(), other.types());
    assert.deepEqual(lost.talk(), other.talk());
    await refused(lost.runAgent({ runId, resume: answer("the blue one") }), 422, "another request");
    await refused(agent.runAgent({ resume: answer("too late") }), 409, "does not wait");

    const no = new Agent(server, "not answered");
    await no.say("ask");
    const resume = [{ interruptId: no.pendingInterrupts[0].id, status: "cancelled" }];
    const again = new Agent(server, "not answered", no.messages.slice());
    await no.go(() => no.runAgent({ resume }));
    assert.equal(no.last().outcome.type, "cancelled");
    await again.go(() => again.runAgent({ resume }));
    assert.equal(again.last().outcome.type, "cancelled");
    await refused(again.runAgent({ resume: [{ ...resume[0], status: "resolved" }] }), 409, "does not wait");
    await no.say("hello");
    assert.equal(no.last().outcome.type, "success");
  },

  async approval(server) {
    const cases = [
      ["approve", /^result-pay result-b$/],
      [{ approved: true }, /^result-pay result-b$/],
      [{ approved: true, arguments: { euro: 5 } }, /changed the arguments to {"euro":5}.]\nresult-pay{"euro":5} result-b$/],
      [{ approved: false, reason: "too dear" }, /^Error: a person has refused this call. too dear result-b$/],
    ];
    for (const [at, [payload, words]] of cases.entries()) {
      const agent = new Agent(server, `approval ${at}`);
      await agent.say("pay");
      const [asked] = agent.pendingInterrupts;
      assert.deepEqual([asked.reason, asked.toolCallId], ["tool_call", "pay"]);
      assert.deepEqual(asked.metadata, { toolName: "pay", arguments: {} });
      assert.deepEqual(asked.responseSchema.required, ["approved"]);
      const answer = (payload) => ({ resume: [{ interruptId: asked.id, status: "resolved", payload }] });
      // What is no approval leaves the call waiting.
      await refused(agent.runAgent(answer("perhaps")), 400, "approve");
      const other = new Agent(server, `approval ${at}`);
      await other.go(() => other.connectAgent());
      assert.equal(other.pendingInterrupts[0].id, asked.id);
      await other.go(() => other.runAgent(answer(payload)));
      assert.equal(other.last().outcome.type, "success");
      assert.match(other.messages.at(-1).content, words);
      await agrees(other);
      await refused(agent.runAgent(answer(payload)), 409, "does not wait");
    }
  },

  async tools(server) {
    const named = (name) => ({ name, description: `Does ${name}`, parameters: { type: "object" } });
    const given = {
      tools: [named("pick"), named("look")],
      context: [{ description: "The page", value: "the-page" }],
      forwardedProps: { locale: "zh" },
    };
    const result = (agent, call, content) =>
      agent.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId: call, content });
    const agent = new Agent(server, "tools");
    await agent.say("client", given);
    assert.equal(agent.last().outcome.type, "success");
    const { toolCalls, content } = agent.messages.at(-1);
    assert.deepEqual(toolCalls.map(({ id }) => id), ["client-pick", "client-look", "own"]);
    assert.equal(content, "Look:");

    // With one of the results the agent waits for the other.
    result(agent, "client-look", "nothing");
    await agent.go(() => agent.runAgent(given));
    assert.equal(agent.last().outcome.type, "success");
    assert.ok(!agent.types().includes("TEXT_MESSAGE_START"));
    // The stream was lost: with the same results again, nothing is called again, also after more.
    const again = async (messages, last) => {
      const lost = new Agent(server, "tools", messages);
      await lost.go(() => lost.runAgent(given));
      assert.equal(lost.last().outcome.type, "success");
      assert.ok(!lost.types().includes("TOOL_CALL_START"));
      assert.equal(lost.messages.at(-1).content, last);
    };
    const first = structuredClone(agent.messages);
    await again(first, "nothing");
    // Another client that knows the thread alone sees the calls, and may answer.
    const other = new Agent(server, "tools");
    await other.go(() => other.connectAgent());
    assert.deepEqual(other.messages.at(-1).toolCalls, toolCalls);
    result(other, "client-pick", "red");
    const both = structuredClone(other.messages);
    await other.go(() => other.runAgent(given));
    const answer = 'red nothing result-own the-page {"locale":"zh"}';
    assert.equal(other.messages.at(-1).content, answer);
    const results = other.messages.filter(({ role }) => role === "tool");
    assert.deepEqual(results.map(({ toolCallId }) => toolCallId).sort(), ["client-look", "client-pick", "own"]);
    await again(both, answer);
    await again(first, answer);
    await other.say("hello");
    assert.equal(other.last().outcome.type, "success");

    // The first one says something else in place of the results that it still owes.
    const away = new Agent(server, "tools not run");
    await away.say("client", given);
    await away.say("hello");
    assert.match(away.messages.at(-1).content, /^hello: result-a result-b/);
    assert.deepEqual((await stored(server, "tools not run")).talk.map(([, said]) => said.slice(0, 6)), ["client", "hello", "hello:"]);
  },

  // What the client makes of the state goes to the agent, which is told nothing of what it knows.
  async state(server) {
    const agent = new Agent(server, "a state");
    const said = async () => {
      await agent.say("state");
      return JSON.parse(agent.messages.at(-1).content);
    };
    assert.equal(await said(), null);
    const { state } = agent;
    agent.setState({ ...state, colour: "red" });
    assert.deepEqual(await said(), { ...state, colour: "red" });
    // This one does not take it over.
    assert.deepEqual(agent.state, state);
    assert.equal(await said(), null);
  },

  async failure(server) {
    const agent = new Agent(server, "a failure");
    await agent.say("refuse");
    const { type, message, code } = agent.last();
    assert.deepEqual([type, message, code], ["RUN_ERROR", "the model refused: no such model", "agent-failed"]);
    assert.equal(agent.types().filter((type) => type.startsWith("STEP_")).length % 2, 0);
    await agent.say("hello");
    assert.equal(agent.last().outcome.type, "success");
  },
};

const [scenario, ...servers] = process.argv.slice(2);
scenarios[scenario](...servers).then(
  () => assert.deepEqual(warnings, []),
).catch((error) => {
  process.stderr.write(`${scenario}: ${error.stack}\n${JSON.stringify(warnings)}\n`);
  process.exitCode = 1;
});
