// The handlers, as work.py has them. `spin` turns as often as Python's, so its jobs are much shorter here: CPU rows
// compare sandq with bare Python loops, not with Node.
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const HOLD_LIMIT_MS = 120_000;

// CLOCK_MONOTONIC in seconds: the same clock as Python's time.monotonic().
export const now = () => Number(process.hrtime.bigint()) / 1e9;

export async function run(data) {
  if (data.kind === "spin") {
    let total = 0;
    for (let turn = 0; turn < data.turns; turn++) total += turn;
    return total > 0;
  }
  if (data.kind !== "noop") await noting(data, now());
  return true;
}

async function noting({ kind, journal, n, sent }, at) {
  if (kind === "stamp") write(journal, { event: "start", n, sent, at });
  else if (isFirst(`${journal}.${n}`)) {
    write(journal, { event: "first", n, pid: process.pid, at: now() });
    if (kind === "crash") process.kill(process.pid, "SIGKILL");
    await sleep(HOLD_LIMIT_MS);
  } else write(journal, { event: "again", n, pid: process.pid, at });
}

function isFirst(mark) {
  try {
    fs.closeSync(fs.openSync(mark, "wx", 0o600));
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

const write = (journal, event) => fs.appendFileSync(journal, JSON.stringify(event) + "\n");
