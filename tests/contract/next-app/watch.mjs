// Opens the page of the first argument in Chromium and prints two JSON lines: once it is subscribed, and at its end.
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(path.join(process.cwd(), "package.json"))("playwright-core");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const page = await browser.newPage();
const troubles = [];
const sockets = [];
page.on("console", (message) => message.type() === "error" && troubles.push(message.text()));
page.on("pageerror", (error) => troubles.push(error.message));
page.on("requestfailed", (request) => troubles.push(`${request.url()} ${request.failure()?.errorText}`));
const subscribed = new Promise((resolve) => {
  page.on("websocket", (socket) => {
    const { protocol, host } = new URL(socket.url());
    sockets.push(`${protocol}//${host}`);
    socket.on("framereceived", ({ payload }) => String(payload).includes("Subscribed to PostgreSQL") && resolve());
  });
});
// Asked for by the browser alone; the application has none.
await page.route("**/favicon.ico", (route) => route.fulfill({ status: 204 }));
const seen = () => page.locator("li").allTextContents();
await page.goto(process.argv[2]);
await subscribed;
await page.locator("li", { hasText: "queued" }).first().waitFor();
console.log(JSON.stringify({ subscribed: true, seen: await seen() }));
await page.locator("li", { hasText: "end" }).waitFor({ timeout: 60_000 });
console.log(JSON.stringify({ seen: await seen(), troubles, sockets }));
await browser.close();
