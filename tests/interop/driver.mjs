// Runs BullMQ on request (see lines.mjs).
//
//   node driver.mjs URL PACKAGE      URL: redis://... or unix:///path/to/socket; PACKAGE: bullmq, or an alias of it
//
// A command names what it is about (`prefix`, `queue`) and what to do (`do`, a key of `commands`).

import { Redis } from 'ioredis';
import { address, serve } from './lines.mjs';

const [url, bullmq] = process.argv.slice(2);
const { FlowProducer, Job, Queue, QueueEvents, Worker } = await import(bullmq);
const connection = new Redis(address(url), { maxRetriesPerRequest: null });
const WAIT_MS = 15000;

const made = new Map(); // "kind prefix queue" -> a BullMQ object
const errors = []; // what BullMQ reported beside its answers: a healthy run leaves this empty
const handled = new Map(); // "prefix:queue" -> ids of the jobs our workers ran

function once(kind, { prefix, queue }, make) {
  const key = [kind, prefix, queue ?? ''].join(' ');
  if (!made.has(key)) {
    const object = make();
    object.on('error', (error) => errors.push(`${key}: ${error.message}`));
    made.set(key, object);
  }
  return made.get(key);
}

const queueOf = (c) => once('queue', c, () => new Queue(c.queue, { connection, prefix: c.prefix }));
const flows = (c) => once('flow', { prefix: c.prefix }, () => new FlowProducer({ connection, prefix: c.prefix }));

// From the stream's beginning, so that nothing is missed between a command and the first read.
function listener(c) {
  return once('events', c, () => {
    const events = new QueueEvents(c.queue, { connection, prefix: c.prefix, lastEventId: '0' });
    events.seen = [];
    const emit = events.emit;
    events.emit = function (event, ...args) {
      if (args[0]?.jobId !== undefined && !event.includes(':')) events.seen.push({ event, ...args[0] });
      return emit.call(this, event, ...args);
    };
    return events;
  });
}

// A worker that claims only when told to: the test decides what becomes of each job.
function hand(c) {
  return once('hand', c, () => {
    const worker = new Worker(c.queue, null, { connection, prefix: c.prefix, autorun: false, ...c.options });
    worker.held = new Map();
    return worker;
  });
}

function hold(worker, job, token) {
  if (!job) return null;
  job.token = token;
  worker.held.set(job.id, job);
  return job.id;
}

// What `fail` throws. Its stack is given, as both sides must store the same.
function failure({ message, stack, permanent }) {
  const error = new Error(message);
  error.stack = stack;
  if (permanent) error.name = 'UnrecoverableError';
  return error;
}

// What a Worker of ours does; processor.py is its twin.
async function run(job) {
  const key = job.queueQualifiedName;
  handled.set(key, [...(handled.get(key) ?? []), job.id]);
  if (job.data?.ms !== undefined) await new Promise((wake) => setTimeout(wake, job.data.ms));
  if (job.data?.progress !== undefined) await job.updateProgress(job.data.progress);
  if (job.data?.raise !== undefined) throw new Error(job.data.raise);
  if (job.name === 'parent') return job.getChildrenValues();
  return job.data?.return;
}

const commands = {
  // A method of a Queue, of a stored Job, of a FlowProducer.
  queue: (c) => queueOf(c)[c.call](...c.args),
  job: async (c) => (await Job.fromId(queueOf(c), c.job))[c.call](...c.args),
  flow: async (c) => (await flows(c).add(c.flow)).job.id,
  schedule: async (c) => { await queueOf(c).upsertJobScheduler(c.scheduler, c.repeat, c.template); },

  // Wait until QueueEvents told of `count` such events; answers them all.
  until: (c) => new Promise((resolve, reject) => {
    const events = listener(c);
    const matching = () => events.seen.filter((e) => e.event === c.event && (!c.job || e.jobId === c.job));
    const timer = setTimeout(() => {
      const told = events.seen.map((e) => `${e.event} ${e.jobId}`).join(', ');
      finish(reject, new Error(`${c.count} x ${c.event} ${c.job ?? ''} did not come; seen: ${told}`));
    }, WAIT_MS);
    function finish(how, value) {
      clearTimeout(timer);
      events.off(c.event, look);
      how(value);
    }
    function look() {
      const found = matching();
      if (found.length >= c.count) finish(resolve, found);
    }
    events.on(c.event, look);
    look();
  }),

  // A worker as anybody would run it.
  work: async (c) => {
    const worker = once('worker', c, () => new Worker(c.queue, run, {
      connection, prefix: c.prefix, name: 'node', ...c.options,
    }));
    await worker.waitUntilReady();
  },
  handled: (c) => handled.get(`${c.prefix}:${c.queue}`) ?? [],

  // One step of a worker.
  claim: async (c) => {
    const worker = hand(c);
    worker.drained = false; // never block: nothing to take is an answer
    return hold(worker, await worker.getNextJob(c.token, { block: false }), c.token);
  },
  complete: async (c) => {
    const worker = hand(c);
    const job = worker.held.get(c.job);
    const next = await job.moveToCompleted(c.value, job.token, c.next);
    if (!c.next || !Array.isArray(next)) return null;
    return hold(worker, await worker.nextJobFromJobData(next[0], next[1], job.token), job.token);
  },
  fail: async (c) => {
    const job = hand(c).held.get(c.job);
    await job.moveToFailed(failure(c), job.token, false);
  },
  // A job whose failure was decided before it was claimed: a worker fails it without running it.
  endDeferred: async (c) => {
    const job = hand(c).held.get(c.job);
    await hand(c).processJob(job, job.token, () => false);
  },
  progress: (c) => hand(c).held.get(c.job).updateProgress(c.value),
  log: (c) => hand(c).held.get(c.job).log(c.line),
  updateData: (c) => hand(c).held.get(c.job).updateData(c.value),
  later: async (c) => {
    const job = hand(c).held.get(c.job);
    await job.moveToDelayed(Date.now() + c.delay, job.token);
  },
  putBack: async (c) => {
    const job = hand(c).held.get(c.job);
    await job.moveToWait(job.token);
  },
  awaitChildren: async (c) => {
    const job = hand(c).held.get(c.job);
    return job.moveToWaitingChildren(job.token);
  },
  renew: (c) => hand(c).extendJobLocks([c.job], [hand(c).held.get(c.job).token], 30000),
  checkStalled: (c) => hand(c).moveStalledJobsToWait(),

  parses: (c) => {
    try {
      JSON.parse(c.text);
    } catch {
      return false;
    }
    return true;
  },

  // Ends everything of one prefix and answers what went wrong meanwhile.
  close: async (c) => {
    for (const [key, object] of [...made]) {
      if (key.split(' ')[1] !== c.prefix) continue;
      made.delete(key);
      await object.close();
    }
    return errors.splice(0);
  },
};

function shown(value) {
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(shown);
  if (value instanceof Job) return value.toJSON();
  return value;
}

serve(commands, shown);
