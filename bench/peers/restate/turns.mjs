// A turn as a handler of a Restate object, one at a time for each chat. Each step takes
// BENCH_STEP_DELAY milliseconds and is written down in BENCH_LEDGER, if they are set. Argument: the port.

import { appendFileSync } from "node:fs";

// The SDK calls it; Node.js has it from version 22 on.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
};
const { object, serve } = await import("@restatedev/restate-sdk");

const STEPS = 4;
const BYTES = 400;
const delay = Number(process.env.BENCH_STEP_DELAY ?? 0);
const ledger = process.env.BENCH_LEDGER;

async function say(number) {
  if (ledger) appendFileSync(ledger, `${Date.now() * 1000} ${number}\n`);
  if (delay) await new Promise((done) => setTimeout(done, delay));
  return String(number).repeat(BYTES);
}

const chat = object({
  name: "chat",
  handlers: {
    turn: async (context, message) => {
      let said = message;
      for (let number = 0; number < STEPS; number++) {
        said = await context.run("say", () => say(number));
      }
      return said;
    },
  },
});

serve({ services: [chat], port: Number(process.argv[2]) });
