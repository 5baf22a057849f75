// Answers each line {"message": name, "text": JSON text} of its input with a line {"valid": bool, "keys": [...]}:
// whether ajv takes the text for that message, and which top-level keys it was refused for.
import { createInterface } from "node:readline";
import { keysAtFault, validators } from "./validators.js";

const known = validators();

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { message, text } = JSON.parse(line);
  const validate = known.get(message);
  const valid = validate(JSON.parse(text));
  process.stdout.write(`${JSON.stringify({ valid, keys: valid ? [] : keysAtFault(validate.errors) })}\n`);
}
