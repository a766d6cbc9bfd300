// The documented producer (pern.md, Message Processing Queue): node producer.js REDIS FILE
// Says "ready", waits for "go", adds the file's events, says "sent".
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import Queue from 'bull';

const [, , redis, file] = process.argv;
const events = JSON.parse(readFileSync(file, 'utf8'));
const messageQueue = new Queue('message processing', { redis: JSON.parse(redis) });
await messageQueue.isReady();
console.log('ready');

// It ends with the benchmark, however that ends.
for await (const _ of createInterface({ input: process.stdin })) {
  for (const { message_id, user_id, status } of events) {
    // Add delivery job
    await messageQueue.add('delivery', {
      messageId: message_id,
      userId: user_id,
      status: status,
    });
  }
  console.log('sent');
}
process.exit();
