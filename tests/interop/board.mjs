// Serves bull-board for queues on request (see lines.mjs).
//
//   node board.mjs URL      URL: redis://... or unix:///path/to/socket

import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { Queue } from 'bullmq';
import express from 'express';
import { Redis } from 'ioredis';
import { address, serve } from './lines.mjs';

const connection = new Redis(address(process.argv[2]), { maxRetriesPerRequest: null });

function listen(app) {
  return new Promise((resolve, reject) => {
    const server = app.listen(0, '127.0.0.1', (error) => (error ? reject(error) : resolve(server)));
  });
}

serve({
  // A board of these queues; answers its address.
  board: async ({ prefix, queues }) => {
    const adapter = new ExpressAdapter();
    createBullBoard({
      queues: queues.map((queue) => new BullMQAdapter(new Queue(queue, { connection, prefix }))),
      serverAdapter: adapter,
    });
    const server = await listen(express().use('/', adapter.getRouter()));
    return `http://127.0.0.1:${server.address().port}`;
  },
});
