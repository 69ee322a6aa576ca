// The two programs of BullMQ for Node: `work SPEC` serves a queue until SIGTERM, `add SPEC JOBS` adds jobs and says how
// long that took. The same as program.py does for Python peers; spec.py says what SPEC and JOBS hold.
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { Queue, Worker } from "bullmq";
import IORedis from "ioredis";
import { now, run } from "./handlers.mjs";

const BULK = 1000; // jobs per addBulk
const IN_PROCESS_CONCURRENCY = 50;

const [role, ...told] = process.argv.slice(2);
const [spec, jobs] = told.map((text) => JSON.parse(text));
const connection = new IORedis(spec.url.replace(/^unix:\/\//, ""), { maxRetriesPerRequest: null });

await (role === "work" ? work() : add());

async function work() {
  const sandboxed = spec.flavour === "sandboxed";
  const lock = spec.lock_s === null ? {} : { lockDuration: spec.lock_s * 1000, stalledInterval: spec.lock_s * 1000 };
  const handler = sandboxed ? fileURLToPath(new URL("./processor.mjs", import.meta.url)) : async (job) => run(job.data);
  const concurrency = sandboxed || spec.handlers === 1 ? spec.handlers : IN_PROCESS_CONCURRENCY;
  const worker = new Worker(spec.queue, handler, { connection, concurrency, ...lock });
  worker.on("error", (error) => console.error(error.message));
  process.on("SIGTERM", async () => {
    await worker.close(true);
    process.exit(0);
  });
}

async function add() {
  const queue = new Queue(spec.queue, { connection });
  await queue.waitUntilReady();
  const data = dataOf(jobs);
  const options = { attempts: jobs.attempts };
  const started = now();
  if (jobs.mode === "paced") await paced(queue, data, options);
  else if (jobs.mode === "bulk") await bulk(queue, data, options);
  else for (let n = 0; n < jobs.count; n++) await queue.add(jobs.kind, data, options);
  console.log(JSON.stringify({ seconds: now() - started }));
  await queue.close();
  connection.disconnect();
}

async function bulk(queue, data, opts) {
  for (let start = 0; start < jobs.count; start += BULK) {
    const size = Math.min(BULK, jobs.count - start);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: jobs.kind, data, opts })));
  }
}

async function paced(queue, data, options) {
  const first = now();
  for (let n = 0; n < jobs.count; n++) {
    await sleep(Math.max(0, (first + n * jobs.every_s - now()) * 1000));
    await queue.add(jobs.kind, { ...data, n, sent: now() }, options);
  }
}

function dataOf({ kind, turns, journal }) {
  if (kind === "spin") return { kind, turns };
  return journal ? { kind, journal } : { kind };
}
