// An application's side of try-ons on a running stack, with the clients applications have. Told by one JSON
// object in the environment variable STACK; prints what it saw as JSON.
import { createClient } from "@supabase/supabase-js";
import { cancelGeneration, enqueueGeneration, getOutcome, resignResult, watchGeneration } from "@wearon/contracts";
import { Redis } from "ioredis";

const { redisUrl, supabaseUrl, anonKey, serviceRoleKey, jobs } = JSON.parse(process.env.STACK);
const server = createClient(supabaseUrl, serviceRoleKey);
const redis = new Redis(redisUrl);

/** A client signed in as the user, as in a browser; a store's sessions are for the server alone. */
function clientFor(job) {
  return job.userToken === null ? server : createClient(supabaseUrl, anonKey, { accessToken: async () => job.userToken });
}

async function follow(job) {
  const supabase = clientFor(job);
  const { channel, sessionId } = job.generation;
  const steps = [];
  let last;
  const signal = AbortSignal.timeout(60_000);
  const watch = watchGeneration(supabase, { channel, sessionId, signal, pollMs: 20 });
  for (let news = await watch.next(); !news.done; news = await watch.next()) {
    last = news.value;
    steps.push(last.status);
    if (steps.length === 1) {
      await (job.cancel ? cancelGeneration(supabase, sessionId) : enqueueGeneration(redis, job.generation));
    }
  }
  const cancelled = await cancelGeneration(supabase, sessionId);
  const outcome = await getOutcome(supabase, sessionId);
  let resigned = null;
  if (last.status === "completed") {
    const url = await resignResult(server, job.generation);
    const answer = await fetch(url);
    resigned = { status: answer.status, type: answer.headers.get("Content-Type") };
  }
  return { steps, last, outcome, resigned, cancelled };
}

const seen = await Promise.all(jobs.map(follow));
await redis.quit();
console.log(JSON.stringify(seen));
process.exit(0);
