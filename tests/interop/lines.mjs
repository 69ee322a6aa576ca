// Commands in, answers out: one JSON text per line on stdin and stdout, matched by `n`. Ends with stdin.
// Answers come as they are ready, so a wait for an event holds up nobody.

import { createInterface } from 'node:readline';

// `commands`: what a line's `do` may name. `shown`: a command's answer as it goes over the line.
export function serve(commands, shown = (value) => value ?? null, end = () => {}) {
  async function answer(line) {
    const command = JSON.parse(line);
    let reply;
    try {
      reply = { n: command.n, value: shown(await commands[command.do](command)) };
    } catch (error) {
      reply = { n: command.n, error: `${command.do}: ${error.stack}` };
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
  }

  async function leave() {
    await end();
    process.exit(0);
  }

  createInterface({ input: process.stdin }).on('line', answer).on('close', leave);
}

// Where ioredis connects to for `redis://...` or `unix:///path/to/socket`.
export const address = (url) => (url.startsWith('unix://') ? url.slice('unix://'.length) : url);
