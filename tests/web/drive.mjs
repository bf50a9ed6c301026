// Drive the page of an export in headless Chromium: node drive.mjs URL QUESTIONS [PICTURE]
//
// QUESTIONS is a JSON list of the form's fields, each with what to press. Prints a JSON list of what the page shows then.
import { chromium } from "playwright-core";

const [url, questions, picture] = process.argv.slice(2);
const QUIET = ["quic", "gpu", "background-networking", "component-update", "sync"].map((name) => `--disable-${name}`);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--no-first-run", ...QUIET],
});
try {
  const page = await browser.newPage({ viewport: { width: 900, height: 640 }, colorScheme: process.env.SCHEME ?? "light" });
  const told = [];
  page.on("console", (message) => told.push(message.text()));
  page.on("pageerror", (error) => told.push(error.message));
  await page.goto(url);
  await page.locator("#generate:enabled").or(page.locator("#problem:visible")).waitFor();
  const seen = async () => ({
    ids: await page.evaluate(() => document.getElementById("made").ids ?? []),
    busy: await page.evaluate(() => document.querySelector("section").ariaBusy),
    ...Object.fromEntries(await Promise.all(["given", "made", "status", "pace", "problem"]
      .map(async (name) => [name, await page.locator(`#${name}`).textContent()]))),
  });
  const results = [];
  for (const { press = "Control+Enter", stop_after: stopAfter, ...fields } of JSON.parse(questions)) {
    for (const [name, value] of Object.entries(fields)) await page.locator(`[name=${name}]`).fill(String(value));
    await page.locator("#prompt").press(press);
    if (stopAfter) {
      await page.waitForFunction((count) => document.getElementById("made").ids?.length >= count
        && document.querySelector("section").ariaBusy === "true", stopAfter);
      await page.keyboard.press("Escape");
    }
    await page.locator("#generate:visible").waitFor();
    results.push(await seen());
  }
  if (!results.length) results.push(await seen());
  if (picture) await page.screenshot({ path: picture });
  console.log(JSON.stringify({ results, told }));
} finally {
  await browser.close();
}
