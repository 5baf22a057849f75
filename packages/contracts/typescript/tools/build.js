// Compiles src into dist/esm and dist/cjs.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const commonjs = `${root}dist/cjs`;

rmSync(`${root}dist`, { recursive: true, force: true });
for (const project of ["tsconfig.json", "tsconfig.commonjs.json"]) {
  execFileSync(`${root}node_modules/.bin/tsc`, ["--project", project], { cwd: root, stdio: "inherit" });
}

// A package.json that says "commonjs" must also say what #names mean below it, and may name nothing outside.
mkdirSync(commonjs, { recursive: true });
const imports = {};
for (const name of ["contracts", "task-schema"]) {
  for (const kind of ["cjs", "d.cts"]) {
    copyFileSync(`${root}generated/${name}.${kind}`, `${commonjs}/${name}.${kind}`);
  }
  imports[`#${name}`] = { types: `./${name}.d.cts`, default: `./${name}.cjs` };
}
writeFileSync(`${commonjs}/package.json`, `${JSON.stringify({ type: "commonjs", imports }, null, 2)}\n`);
