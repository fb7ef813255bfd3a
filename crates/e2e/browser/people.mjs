// What every walk through the dashboard needs: a browser, pages that tell what goes wrong in them, signing in.
//
// MAINSTAY_ADDRESS   where the control plane listens
// MAINSTAY_PASSWORD  password of the user `admin`
// CHROMIUM           the browser
// SHOTS              folder for screenshots (none: no screenshots)
// MAINSTAY_STEPS     names of the steps to walk, with commas between them (none: all)
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

export const address = needed("MAINSTAY_ADDRESS").replace(/\/$/, "");
export const password = needed("MAINSTAY_PASSWORD");
export const LIVE_LIMIT_MS = 20_000;
const shots = process.env.SHOTS;

export function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

// Loopback only: whatever else is asked for is a mistake of ours.
export async function open(browser, options) {
  const context = await browser.newContext(options);
  const problems = [];
  await context.route((url) => !`${url}`.startsWith(`${address}/`), (route) => {
    problems.push(`a page asked for ${route.request().url()}`);
    return route.abort();
  });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of 4\d\d/.test(message.text())) problems.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`script: ${error.message}`));
  return { context, page, problems };
}

export async function signIn(page, next = "/") {
  await page.goto(`${address}/login?next=${encodeURIComponent(next)}`);
  await page.getByLabel("User").fill("admin");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${address}${next}`);
}

// What is below the window is not laid out until somebody goes there; here it is, for as long as something looks at all of
// a page. The page's policy lets nobody write a style into it, but the browser itself may add one.
export async function laidOut(page, look) {
  await page.evaluate(() => {
    const whole = new CSSStyleSheet();
    whole.replaceSync("* { content-visibility: visible !important; }");
    document.adoptedStyleSheets = [whole];
  });
  try {
    return await look();
  } finally {
    await page.evaluate(() => { document.adoptedStyleSheets = []; });
  }
}

// The whole page, or what is seen of it at first.
export async function shoot(page, name, fullPage = true) {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await laidOut(page, () => page.screenshot({ path: `${shots}/${name}.png`, fullPage }));
}

// Each step is a function of the browser; the first that fails ends it all.
export async function walk(all) {
  const wanted = process.env.MAINSTAY_STEPS?.split(",");
  const steps = all.filter((step) => !wanted || wanted.includes(step.name));
  if (!steps.length) throw new Error(`there is no such step; there is ${all.map((step) => step.name).join(", ")}`);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    for (const step of steps) {
      const begun = Date.now();
      try {
        await step(browser);
      } catch (error) {
        error.message = `${step.name}: ${error.message}`;
        throw error;
      }
      console.log(`${step.name}: ${((Date.now() - begun) / 1000).toFixed(1)} s`);
    }
  } finally {
    await browser.close();
  }
}
