// A local stack with its studio page, Debian's Chromium, and where screenshots go.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const SHOTS = path.join(ROOT, ".local", "browser");
const README_SHOTS = process.env.PICTURES ? path.join(ROOT, "docs", "images") : SHOTS;
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const STARTS_WITHIN_MS = 120_000;

export class Stack {
  /** Starts `python -m wearon_local up` and waits until it names the page. */
  static start() {
    const child = spawn(
      path.join(ROOT, ".venv", "bin", "python"), ["-m", "wearon_local", "up", "--latency", "2"],
      { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] },
    );
    return new Promise((resolve, reject) => {
      let printed = "";
      const timer = setTimeout(() => {
        child.kill("SIGTERM");
        reject(new Error(`the stack did not start in time:\n${printed}`));
      }, STARTS_WITHIN_MS);
      child.on("exit", (code) => reject(new Error(`the stack ended with ${code}:\n${printed}`)));
      child.stdout.on("data", (data) => {
        printed += data;
        const url = printed.match(/^studio page +(\S+)$/m)?.[1];
        if (url && printed.includes("Ctrl-C")) {
          clearTimeout(timer);
          resolve(new Stack(child, url));
        }
      });
    });
  }

  constructor(child, url) {
    this.child = child;
    this.url = url;
  }

  async stop() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGTERM");
    await ended;
  }
}

export function openBrowser() {
  if (!existsSync(CHROMIUM)) {
    throw new Error(`There is no ${CHROMIUM}. On Debian: apt-get install chromium. Elsewhere: CHROMIUM=/path make test-browser`);
  }
  mkdirSync(SHOTS, { recursive: true });
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
}

export async function shoot(page, name, options = {}) {
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`), animations: "disabled", ...options });
}

/** A JPEG of the screen for the README, put in its place only with PICTURES=1; returns where it is. */
export async function shootForReadme(page, name) {
  await page.evaluate(() => {
    document.activeElement?.blur();
    scrollTo(0, 0);
  });
  const file = path.join(README_SHOTS, `${name}.jpg`);
  await page.screenshot({ path: file, type: "jpeg", quality: 82, animations: "disabled" });
  return file;
}
