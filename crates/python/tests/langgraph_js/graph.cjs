// A graph of LangGraph.js on its PostgreSQL saver. Prints as JSON what it sees.
//
//   node graph.cjs URL THREAD say TEXT    one turn; that of "ask" stops at a question
//   node graph.cjs URL THREAD read        all checkpoints of the thread
// LangChain wants it; the Node.js 18 of Debian 12 has it under this name only.
globalThis.crypto ??= require("node:crypto").webcrypto;

const { AIMessage, BaseMessage, HumanMessage, ToolMessage } = require("@langchain/core/messages");
const { Annotation, END, MessagesAnnotation, START, Send, StateGraph, interrupt } =
  require("@langchain/langgraph");
const { PostgresSaver } = require("@langchain/langgraph-checkpoint-postgres");

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  paths: Annotation({ reducer: (before, more) => before.concat(more), default: () => [] }),
  turns: Annotation(),
  text: Annotation(),
  nothing: Annotation(),
  nested: Annotation(),
  bytes: Annotation(),
});

function model({ messages, turns = 0 }) {
  const last = messages.at(-1);
  const id = `js-${last.id}`;
  if (last.getType() === "tool") {
    return { messages: [new AIMessage({ content: "done 🦀", id })], turns: turns + 1 };
  }
  return {
    messages: [new AIMessage({ content: "", id, tool_calls: [{ name: "double", args: { x: turns }, id }] })],
    text: `中文 "${last.content}"`,
    nothing: null,
    nested: { list: [1, 2.5, null, { deep: true }], absent: undefined, large: 2 ** 53 },
    bytes: new Uint8Array([0, 255, turns]),
  };
}

// Two tasks for each call.
function next({ messages, text }) {
  const calls = messages.at(-1).tool_calls;
  if (calls.length === 0) return text.includes("ask") ? "ask" : END;
  return calls.flatMap((call) => ["b", "a"].map((part) => new Send("tool", { call, part })));
}

function tool({ call, part }) {
  const fields = { content: `${2 * call.args.x}${part}`, tool_call_id: call.id, id: `${call.id}-${part}` };
  return { messages: [new ToolMessage(fields)], paths: [part] };
}

const graph = new StateGraph(State)
  .addNode("model", model)
  .addNode("tool", tool)
  .addNode("ask", () => ({ text: interrupt({ question: "go on?" }) }))
  .addEdge(START, "model")
  .addConditionalEdges("model", next, ["tool", "ask", END])
  .addEdge("tool", "model")
  .addEdge("ask", END);

// What both languages can print: a message by its fields, bytes as numbers.
function plain(value) {
  if (value instanceof BaseMessage) {
    const { id, content, tool_call_id = null, tool_calls = [] } = value;
    const calls = tool_calls.map(({ name, args, id }) => ({ name, args, id }));
    return { type: value.getType(), id, content, tool_call_id, tool_calls: plain(calls) };
  }
  if (value instanceof Uint8Array) return { bytes: Array.from(value) };
  if (Array.isArray(value)) return value.map(plain);
  if (value === undefined || value === null) return null;
  if (typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

async function main(url, thread, command, text) {
  const checkpointer = PostgresSaver.fromConnString(url);
  const config = { configurable: { thread_id: thread } };
  try {
    await checkpointer.setup();
    if (command === "say") {
      const message = new HumanMessage({ content: text, id: text });
      return await graph.compile({ checkpointer }).invoke({ messages: [message] }, config);
    }
    const list = [];
    for await (const found of checkpointer.list(config)) list.push(found);
    return { list, latest: await checkpointer.getTuple(config) };
  } finally {
    await checkpointer.end();
  }
}

main(...process.argv.slice(2))
  .then((seen) => console.log(JSON.stringify(plain(seen))))
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
