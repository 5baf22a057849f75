// Drives the studio page as a person would, on a desktop by day and on a phone by night, against a local
// stack of its own. Leaves screenshots in .local/browser; with PICTURES=1 takes those of the README anew.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import path from "node:path";

import { openBrowser, shoot, shootForReadme, Stack } from "./setting.mjs";

const AXE = await readFile(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const SAMPLES = fileURLToPath(new URL("../samples/", import.meta.url));
const RECOVERS_WITHIN_MS = 150_000;

const DEVICES = {
  desktop: { viewport: { width: 1280, height: 900 }, colorScheme: "light", deviceScaleFactor: 1 },
  phone: {
    viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2,
    isMobile: true, hasTouch: true, reducedMotion: "reduce",
  },
};

let stack;
let browser;

before(async () => {
  stack = await Stack.start();
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  await stack?.stop();
});

for (const [device, options] of Object.entries(DEVICES)) {
  describe(device, () => {
    let context;
    let page;
    const troubles = [];

    before(async () => {
      context = await browser.newContext({ ...options, baseURL: stack.url });
      page = await context.newPage();
      page.setDefaultTimeout(30_000);
      page.on("console", (message) => {
        if (["error", "warning"].includes(message.type())) troubles.push(`console: ${message.text()}`);
      });
      page.on("pageerror", (error) => troubles.push(`exception: ${error.message}`));
      page.on("requestfailed", (request) => troubles.push(`failed: ${request.url()} ${request.failure()?.errorText}`));
      page.on("response", (response) => {
        if (response.status() >= 400) troubles.push(`${response.status()}: ${response.url()}`);
      });
      page.on("request", (request) => {
        const { protocol, origin } = new URL(request.url());
        if (protocol !== "blob:" && protocol !== "data:" && origin !== new URL(stack.url).origin) {
          troubles.push(`elsewhere: ${request.url()}`);
        }
      });
      await page.goto("/");
      // The page is at work once it shows how many credits there are.
      await page.locator("#balance", { hasText: /\d/ }).waitFor();
    });

    after(async () => {
      await context?.close();
      assert.deepEqual(troubles, []);
    });

    const balance = async () => Number(await page.locator("#balance").textContent());
    const openTab = (name) => page.getByRole("tab", { name }).click();
    const chooseSample = (group, name) =>
      page.getByRole("group", { name: group }).getByRole("radio", { name }).check({ force: true });
    const serviceThat = (name) => page.getByRole("radio", { name, exact: true }).check({ force: true });
    const stepNames = () => page.locator("#steps .name").allTextContents();

    async function isAccessible() {
      await page.evaluate(AXE);
      // A colour on its way to another one is not the colour to judge.
      await page.waitForFunction(() => document.getElementById("movement").textContent === "");
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
      assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`), []);
    }

    async function fitsTheScreen() {
      const [content, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(content <= screen, `the page is ${content} px wide on a screen of ${screen} px`);
    }

    test("says that it is a development tool", async () => {
      await page.getByText("A development tool on your own machine.").waitFor();
      await page.getByText("No service image contains this page.").waitFor();
      await page.getByText("Sample: Person one").first().waitFor();
      await isAccessible();
      await fitsTheScreen();
    });

    test("a try-on goes through its steps and costs a credit", async () => {
      const had = await balance();
      await chooseSample("Person", "Person two");
      await chooseSample("Garment", "Dress");
      await serviceThat("works");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.locator("#steps .open .name", { hasText: "Making the picture" }).waitFor();
      assert.equal(await balance(), had - 1);
      await shoot(page, `${device}-try-on-working`);
      await page.locator(".verdict.good", { hasText: "The picture is there." }).waitFor();
      assert.deepEqual(await stepNames(), [
        "Waiting in the queue", "Waiting for a free slot", "Making the picture", "Storing the picture", "Done",
      ]);
      const making = page.locator("#steps li", { hasText: "Making the picture" }).locator(".time");
      assert.ok(Number.parseFloat(await making.textContent()) >= 1.5, "the stand-in takes 2 s");
      await page.getByText(`One credit was spent; ${had - 1} left.`, { exact: true }).waitFor();
      assert.equal(await balance(), had - 1);
    });

    test("before and after are divided by a slider that keys and pointers move", async () => {
      const pictures = page.locator(".pair img");
      await page.waitForFunction(() => [...document.querySelectorAll(".pair img")].every((i) => i.naturalWidth > 0));
      assert.deepEqual(await pictures.evaluateAll((images) => images.map((image) => image.alt.split(":")[0])), ["After", "Before"]);
      assert.deepEqual(await pictures.first().evaluate((i) => [i.naturalWidth, i.naturalHeight]), [1024, 1536]);
      const shown = () => page.locator(".pair .before").evaluate((image) => {
        const right = getComputedStyle(image).clipPath.match(/inset\(\S+ ([^ ]+)/)[1];
        return right.endsWith("%") ? 100 - Number.parseFloat(right) : right;
      });
      const slider = page.getByRole("slider", { name: "Divide between before and after" });
      const half = await shown();
      await slider.press("End");
      const all = await shown();
      assert.notEqual(all, half);
      await slider.press("Home");
      assert.notEqual(await shown(), all);
      const box = await slider.boundingBox();
      await slider.click({ position: { x: box.width / 2, y: box.height / 2 } });
      assert.equal(Number(await slider.inputValue()), 50);
      await isAccessible();
      await fitsTheScreen();
      await shoot(page, `${device}-try-on`, { fullPage: true });
      if (device === "desktop") await isSmall(await shootForReadme(page, "studio-try-on"));
    });

    test("a blocked picture shows the sentence and brings the credit back", async () => {
      const had = await balance();
      await serviceThat("blocks the picture");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.getByText("The safety filter flagged the").last().waitFor();
      await page.getByText(`The credit came back: ${had} left.`).last().waitFor();
      assert.equal(await balance(), had);
      await page.getByText("moderation_blocked").waitFor();
      await isAccessible();
      await shoot(page, `${device}-try-on-blocked`, { fullPage: true });
    });

    test("a rate limit is waited for, and the retry makes the picture", async () => {
      await serviceThat("limits the rate once");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.locator("#steps .open .name", { hasText: "Rate limit: waiting to try again" }).waitFor();
      const seen = await page.locator("#steps").boundingBox();
      assert.ok(seen.y + seen.height <= page.viewportSize().height, "the steps are in sight while they go on");
      await shoot(page, `${device}-try-on-rate-limited`);
      await page.locator(".verdict.good", { hasText: "The picture is there." }).waitFor();
      assert.equal((await stepNames()).filter((name) => name === "Making the picture").length, 2);
    });

    test("a rate limit that stays brings the credit back", async () => {
      const had = await balance();
      await serviceThat("keeps limiting the rate");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.getByText("Too many try-ons are being made right now.").last().waitFor();
      assert.equal(await balance(), had);
    });

    test("a broken service brings the credit back", async () => {
      const had = await balance();
      await serviceThat("is broken");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.getByText("The image service did not answer.").last().waitFor();
      assert.equal(await balance(), had);
    });

    test("a slow service is waited for", async () => {
      await serviceThat("is slow");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.locator(".verdict.good", { hasText: "The picture is there." }).waitFor();
      const making = page.locator("#steps li", { hasText: "Making the picture" }).locator(".time");
      assert.ok(Number.parseFloat(await making.textContent()) >= 8, "the stand-in takes 8 s");
    });

    test("own pictures are taken, by file and by drop, and what is no picture is refused", async () => {
      await serviceThat("works");
      await page.locator("#person-file").setInputFiles(path.join(SAMPLES, "person-rendered-1.jpg"));
      await page.getByText("person-rendered-1.jpg").waitFor();
      const dropped = await page.evaluateHandle(() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["no picture at all"], "notes.txt", { type: "text/plain" }));
        return transfer;
      });
      await page.locator("label[for=garment-file]").dispatchEvent("drop", { dataTransfer: dropped });
      await page.getByText("notes.txt").waitFor();
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.locator(".verdict.bad", { hasText: "is not a kind of picture that we can open" }).waitFor();
      await chooseSample("Garment", "T-shirt");
      await page.getByRole("button", { name: "Try it on" }).click();
      await page.locator(".verdict.good", { hasText: "The picture is there." }).waitFor();
    });

    test("credits can be added", async () => {
      const had = await balance();
      await page.getByRole("button", { name: "Add 10" }).click();
      await page.waitForFunction((wanted) => document.getElementById("balance").textContent === wanted, String(had + 10));
    });

    test("a photo is looked at before a credit is taken", async () => {
      await openTab("Try on");
      await chooseSample("Person", "Person two");
      await page.locator("#photo-check", { hasText: "This photo will do." }).waitFor();
    });

    test("a photo is measured, and what is measured is drawn onto it", async () => {
      await openTab("Sizing");
      await chooseSample("Photo", "Person two");
      const height = page.getByRole("spinbutton", { name: "Height" });
      assert.equal(await height.inputValue(), "173.3");
      await page.getByRole("combobox", { name: "Gender" }).selectOption("female");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.locator(".size strong").waitFor();
      assert.match(await page.locator(".size").textContent(), /^Size (XS|S|M|L|XL|XXL)\d+% suremost likely/);
      const rows = await page.locator(".measures tbody tr").allTextContents();
      assert.deepEqual(rows.map((row) => row.match(/^[A-Z][a-z]+?(?=girth|breadth|crotch)/)[0]),
        ["Chest", "Waist", "Hip", "Shoulder", "Inseam"]);
      for (const row of rows) {
        const [value, lower, upper] = row.match(/\d+\.\d/g).map(Number);
        assert.ok(lower < value && value < upper, row);
      }
      const drawing = page.getByRole("img", { name: "Outline, skeleton and the measured lines" });
      assert.deepEqual((await drawing.locator("text").allTextContents()).map((text) => text.replace(/\d+/, "N")),
        ["chest N cm", "waist N cm", "hip N cm"]);
      const [photo, over] = [await page.locator(".drawn img").boundingBox(), await drawing.boundingBox()];
      assert.deepEqual(over, photo, "the drawing lies exactly on the photo");
      await isAccessible();
      await fitsTheScreen();
      await shoot(page, `${device}-sizing`, { fullPage: true });
    });

    test("the weight is used when it is said", async () => {
      const chest = async () => page.locator(".measures .chest_cm .value").textContent();
      const without = await chest();
      await page.getByRole("spinbutton", { name: "Weight" }).fill("70");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.waitForFunction((old) => document.querySelector(".measures .chest_cm .value").textContent !== old, without);
    });

    test("the garment's own sizes are answered beside the letter size", async () => {
      await page.getByRole("combobox", { name: "Size chart" }).selectOption("uk_women");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.locator(".advice.chart").waitFor();
      assert.equal(await page.locator(".chart-sizes tbody tr").count(), 9);
      await page.getByText("The garment's own chart").click();
      await page.getByRole("textbox", { name: "One size per line" }).fill("small chest 70-90\nlarge chest 90-120");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.locator(".chart-sizes tbody th", { hasText: "large" }).waitFor();
      assert.equal(await page.locator(".chart-sizes tbody tr").count(), 2);
      await isAccessible();
      await fitsTheScreen();
    });

    test("a size chart that cannot be used is not blamed on the photo", async () => {
      const lines = page.getByRole("textbox", { name: "One size per line" });
      await lines.fill("small chest 90-70");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.getByText("has a lower end above its upper end").waitFor();
      assert.equal(await page.locator("#sizes .verdict").textContent(), "No size was found.");
      await lines.fill("");
    });

    test("a photo that cannot be measured says what to change", async () => {
      await chooseSample("Photo", "Feet cut off");
      await page.getByRole("button", { name: "Find the size" }).click();
      await page.getByText("Your feet are cut off. Please step back until they are in the photo.").waitFor();
      await page.getByRole("img", { name: "The skeleton that was found" }).waitFor();
      await page.getByRole("heading", { name: "Without the photo" }).waitFor();
      assert.equal(await page.locator(".measures tbody tr").count(), 5);
      await isAccessible();
      await shoot(page, `${device}-sizing-refused`, { fullPage: true });
    });

    test("an unreadable task becomes a dead letter", async () => {
      await openTab("Queue");
      const dead = page.locator("[data-depth=dead] b");
      await page.locator("[data-state=ready]", { hasText: "consumer-1" }).waitFor();
      const had = Number(await dead.textContent());
      await page.getByRole("button", { name: "Send an unreadable task" }).click();
      await page.waitForFunction((old) => Number(document.querySelector("[data-depth=dead] b").textContent) === old + 1, had);
      await page.locator("#letters li", { hasText: "invalid task" }).first().waitFor();
      await page.getByText("A task that nobody can read was sent.").first().waitFor();
      await isAccessible();
      await fitsTheScreen();
    });

    test("a killed worker's jobs are done by another", async () => {
      await page.getByRole("button", { name: "Send 6 slow try-ons" }).click();
      const working = page.locator("#sessions tr[data-state=working]");
      await waitFor(async () => (await working.count()) === 6, 30_000, "six jobs in work");
      const ids = await working.locator(".id").allTextContents();
      await shoot(page, `${device}-queue-working`, { fullPage: true });
      await page.getByRole("button", { name: /^Kill generator-/ }).click();
      await page.getByText(/generator-\d+ was killed with 6 jobs in hand\./).first().waitFor();
      await page.getByText(/killed; another one in \d s/).waitFor();
      await page.getByText(/generator-\d+ starts in place of generator-\d+\./).first().waitFor();
      await page.locator("#workers [data-state=ready]", { hasText: "generator" }).waitFor();
      await page.locator("#sessions tr[data-state=lost]").first().waitFor({ timeout: RECOVERS_WITHIN_MS });
      await isAccessible();
      await shoot(page, `${device}-queue-killed`, { fullPage: true });
      for (const id of ids) {
        const row = page.locator("#sessions tr[data-state=completed]", { hasText: id });
        await row.waitFor({ timeout: RECOVERS_WITHIN_MS });
        assert.equal(await row.locator(".number").first().textContent(), "2", "begun once by each worker");
      }
      await shoot(page, `${device}-queue-recovered`, { fullPage: true });
    });

    test("tabs are walked with the arrow keys", async () => {
      const tab = (name) => page.getByRole("tab", { name });
      await tab("Queue").focus();
      await page.keyboard.press("ArrowRight");
      assert.equal(await tab("Try on").getAttribute("aria-selected"), "true");
      assert.ok(await tab("Try on").evaluate((element) => element === document.activeElement));
      await page.keyboard.press("End");
      assert.equal(await tab("Queue").getAttribute("aria-selected"), "true");
      await page.keyboard.press("Home");
      assert.ok(await page.getByRole("tabpanel", { name: "Try on" }).isVisible());
      assert.equal(await page.getByRole("tabpanel").count(), 1);
    });

    test("a try-on needs no pointer", async () => {
      await page.getByRole("radio", { name: "works", exact: true }).focus();
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "Try it on");
      await page.keyboard.press("Enter");
      await page.locator("#steps .open").first().waitFor();
      await page.locator(".verdict.good", { hasText: "The picture is there." }).waitFor();
    });
  });
}

async function isSmall(file) {
  const { size } = await stat(file);
  assert.ok(size < 200_000, `${file} has ${size} bytes`);
}

async function waitFor(condition, timeout, what) {
  const deadline = Date.now() + timeout;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeout / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
