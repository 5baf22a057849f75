// Pushes try-ons as the Next.js app's API route does: one LPUSH per job of a snake_case JSON object.
//
//   node push.mjs <redis url> < jobs.json
//
// jobs.json is a list of {taskId, channel, userId | storeId, sessionId, imageUrls, prompt, requestId}, what the
// route handler knows when the session row exists and the credit is deducted. Absent keys stay absent.

import { readFileSync } from "node:fs";
import { Redis } from "ioredis";

const TASK_LIST = "wearon:tasks:generation";

const redis = new Redis(process.argv[2]);
try {
  for (const job of JSON.parse(readFileSync(0, "utf8"))) {
    const payload = {
      task_id: job.taskId,
      channel: job.channel,
      user_id: job.userId,
      store_id: job.storeId,
      session_id: job.sessionId,
      image_urls: job.imageUrls,
      prompt: job.prompt,
      request_id: job.requestId,
      version: 1,
      created_at: new Date().toISOString(),
    };
    const length = await redis.lpush(TASK_LIST, JSON.stringify(payload));
    console.log(`pushed ${job.channel} session ${job.sessionId} (${length} waiting)`);
  }
} finally {
  await redis.quit();
}
