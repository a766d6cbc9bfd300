// The documented worker (pern.md, Message Processing Queue): node worker.js DATABASE_URL REDIS CONCURRENCY
import Queue from 'bull';
import { connect, define } from './model.js';

const [, , database, redis, concurrency] = process.argv;
// A connection for each job at once: of 5, 20 and 50 for fifty, what is fastest.
const MessageStatus = define(connect(database, Number(concurrency)));

const messageQueue = new Queue('message processing', { redis: JSON.parse(redis) });

// Process message delivery
messageQueue.process('delivery', Number(concurrency), async (job) => {
  const { messageId, userId, status } = job.data;

  await MessageStatus.upsert({
    message_id: messageId,
    user_id: userId,
    status: status,
    delivered_at: status === 'delivered' ? new Date() : null,
    read_at: status === 'read' ? new Date() : null,
  });
});

// It ends with the benchmark, however that ends.
process.stdin.on('end', () => process.exit()).resume();
await messageQueue.isReady();
console.log('ready');
