// One ajv validator for each file of ../schemas.
import { readFileSync, readdirSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { fullFormats } from "ajv-formats/dist/formats.js";

const SCHEMAS = new URL("../../schemas/", import.meta.url);
const SUFFIX = ".schema.json";

/** A map from message name to a function that says whether a value is that message. */
export function validators() {
  const ajv = new Ajv2020({ strict: true, strictTypes: true, allErrors: true });
  ajv.addFormat("date-time", fullFormats["date-time"]);
  const files = readdirSync(SCHEMAS).filter((name) => name.endsWith(SUFFIX));
  return new Map(
    files.map((name) => [
      name.slice(0, -SUFFIX.length),
      ajv.compile(JSON.parse(readFileSync(new URL(name, SCHEMAS), "utf8"))),
    ]),
  );
}

/** The top-level keys that a refused value was refused for, as ajv told in `errors`. */
export function keysAtFault(errors) {
  const keys = errors.map(
    (error) => error.instancePath.split("/")[1] ?? error.params.missingProperty ?? error.params.additionalProperty,
  );
  return [...new Set(keys.filter((key) => key !== undefined))].sort();
}
