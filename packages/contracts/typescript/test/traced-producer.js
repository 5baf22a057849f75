// An application that traces its route handlers: enqueues one generation inside a span and sends that to the
// collector of OTEL_EXPORTER_OTLP_ENDPOINT. Told by one JSON object in the environment variable JOB.
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import { enqueueGeneration } from "@wearon/contracts";
import { Redis } from "ioredis";

const { redisUrl, generation } = JSON.parse(process.env.JOB);
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
provider.register();
const redis = new Redis(redisUrl);
await provider.getTracer("app").startActiveSpan("POST /api/try-on", async (span) => {
  await enqueueGeneration(redis, generation);
  span.end();
});
await redis.quit();
await provider.shutdown();
