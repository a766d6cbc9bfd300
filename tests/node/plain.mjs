// What celery-node documents. Sends each of the calls given, waits, and says that it is still there.
import { createClient } from "celery-node";

const celery = createClient(given.url, given.url, given.queue);
for (const args of given.calls) celery.createTask(given.task).applyAsync(args);
await new Promise((wake) => setTimeout(wake, given.wait));
console.log(JSON.stringify("still here"));
process.exit(0);
