// Walks through the dashboard in a real browser, as people do: signs in, looks at every page in light,
// dark and on a phone, with and without a script, watches a restart arrive live, and signs out.
//
// MAINSTAY_ADDRESS   where the control plane listens
// MAINSTAY_PASSWORD  password of the user `admin`
// MAINSTAY_SERVICE   a running service, as stack/service
// SHOTS              folder for screenshots (none: no screenshots)
// MAINSTAY_LOADS     how often each page is loaded to see how soon it is seen
import assert from "node:assert/strict";
import { axeProblems } from "./axe.mjs";
import { contrastProblems } from "./contrast.mjs";
import { LIVE_LIMIT_MS, address, needed, open, password, shoot, signIn, walk } from "./people.mjs";

const [stack, service] = needed("MAINSTAY_SERVICE").split("/");
const servicePath = `/stacks/${stack}/services/${service}`;
const PAGE_LIMIT_BYTES = 50_000;
const LOADS = Number(process.env.MAINSTAY_LOADS ?? 3);

const VIEWS = [
  { name: "light", colorScheme: "light", viewport: { width: 1280, height: 800 } },
  { name: "dark", colorScheme: "dark", viewport: { width: 1280, height: 800 } },
  { name: "phone", colorScheme: "light", viewport: { width: 390, height: 844 } },
];

async function pages(page) {
  await page.goto(`${address}${servicePath}`);
  const deployment = await page.locator("#deployment h2 a").getAttribute("href");
  await page.goto(`${address}/servers`);
  const server = await page.locator("#servers tbody a.name").first().getAttribute("href");
  return {
    overview: "/", stack: `/stacks/${stack}`, service: servicePath, deployment, servers: "/servers", server,
    services: "/services", revisions: `${servicePath}/revisions?from=1&to=1`, logs: `${servicePath}/logs`,
    edit: `/stacks/${stack}/edit`, stop: `${servicePath}/stop`, builds: "/builds", settings: "/settings",
    search: `/search?q=restart+${service}`,
    join: "/servers/new", events: "/events", problems: "/events?level=error", tokens: "/tokens", docs: "/docs",
    endpoint: "/docs/endpoints/post-api-v1-deploy", schema: "/docs/schemas/ServiceView", nowhere: "/no/such/page",
  };
}

// What holds for every page.
async function checkPage(page, name, path, view) {
  const answer = await page.goto(`${address}${path}`);
  const html = await answer.text();
  assert.equal(answer.status(), name === "nowhere" ? 404 : 200, `${path} answered ${answer.status()}`);
  assert.ok(Buffer.byteLength(html) < PAGE_LIMIT_BYTES, `${path} has ${Buffer.byteLength(html)} bytes`);
  assert.doesNotMatch(html, /<script(?![^>]*\ssrc=)|<style|\sstyle="|\son[a-z]+="/, `${path} holds inline script or style`);
  const headers = answer.headers();
  assert.match(headers["content-security-policy"], /default-src 'none'; script-src 'self'; style-src 'self'/);
  assert.doesNotMatch(headers["content-security-policy"], /unsafe/);
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.match(await page.title(), / · Mainstay$/);
  assert.equal(await page.locator("h1").count(), 1, `${path} needs one main heading`);
  assert.equal(await page.locator("main").count(), 1);
  const nameless = await page.evaluate(() => [...document.querySelectorAll("input:not([type=hidden]),select,button,a[href]")]
    .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.outerHTML));
  assert.deepEqual(nameless, [], `${path} has controls without a name`);
  const doubled = await page.evaluate(() => [...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, n, all) => all.indexOf(id) !== n));
  assert.deepEqual(doubled, [], `${path} has ids that are there twice`);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${path} is ${over} px wider than a ${view.name} screen`);
  assert.deepEqual(await page.evaluate(contrastProblems), [], `${path} (${view.name}) has text with too little contrast`);
  assert.deepEqual(await axeProblems(page), [], `${path} (${view.name}) is hard to use for some people`);
  await shoot(page, `${name}-${view.name}`);
}

async function everyPage(browser) {
  for (const view of VIEWS) {
    const { context, page, problems } = await open(browser, view);
    await page.goto(`${address}/`);
    assert.equal(new URL(page.url()).pathname, "/login", "nobody sees a page without signing in");
    await shoot(page, `login-${view.name}`);
    await signIn(page);
    for (const [name, path] of Object.entries(await pages(page))) await checkPage(page, name, path, view);
    assert.deepEqual(problems, []);
    await context.close();
  }
}

async function wrongPassword(browser) {
  const { context, page } = await open(browser, {});
  await page.goto(`${address}/login`);
  await page.getByLabel("User").fill("admin");
  await page.getByLabel("Password").fill("not the password");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  assert.match(await page.getByRole("alert").innerText(), /user or the password is wrong/);
  assert.equal(await page.getByLabel("User").inputValue(), "admin");
  await context.close();
}

async function keyboard(browser) {
  const { context, page } = await open(browser, {});
  await signIn(page);
  await page.goto(`${address}/`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => location.hash), "#main");
  await context.close();
}

// A restart is seen arriving, stage by stage, and its log lines, without the page being loaded again.
async function live(browser) {
  const { context, page, problems } = await open(browser, { viewport: { width: 1280, height: 800 } });
  await signIn(page, servicePath);
  await page.getByText("Live", { exact: true }).waitFor({ timeout: LIVE_LIMIT_MS });
  await page.evaluate(() => { window.loadedOnce = true; });
  const before = await page.locator("#deployment h2 a").getAttribute("href");
  const lines = await page.locator("#log-lines .line").count();
  const other = await context.newPage();
  await other.goto(`${address}${servicePath}`);
  await other.getByRole("button", { name: "Restart" }).click();
  // A page of its own asks first.
  await other.getByRole("button", { name: `Restart ${service}` }).click();
  await other.getByText(`Restart of ${service} has begun.`).waitFor();
  await shoot(other, "restart-begun");
  await page.waitForFunction((old) => document.querySelector("#deployment h2 a")?.getAttribute("href") !== old, before, { timeout: LIVE_LIMIT_MS });
  await page.locator("#deployment .badge.good").waitFor({ timeout: 3 * LIVE_LIMIT_MS });
  await page.waitForFunction((n) => document.querySelectorAll("#log-lines .line").length > n, lines, { timeout: LIVE_LIMIT_MS });
  assert.equal(await page.evaluate(() => window.loadedOnce), true, "the page was loaded again");
  // The filter works as one types.
  await page.getByRole("searchbox").fill("no line holds this");
  await page.getByText("No line holds “no line holds this”.").waitFor();
  await shoot(page, "restart-live");
  assert.deepEqual(problems, []);
  await context.close();
}

// Reading and acting need no script.
async function withoutScript(browser) {
  const { context, page } = await open(browser, { javaScriptEnabled: false });
  await signIn(page, servicePath);
  assert.match(await page.content(), /scripts are off/);
  await page.getByRole("spinbutton", { name: "Instances" }).fill("2");
  await page.getByRole("button", { name: "Scale" }).click();
  await page.getByText(`Scale of ${service} has begun.`).waitFor();
  await shoot(page, "without-script");
  const filtered = await page.goto(`${address}${servicePath}?filter=nothing-holds-this`);
  assert.match(await filtered.text(), /No line holds “nothing-holds-this”/);
  await context.close();
}

async function refusals(browser) {
  const { context, page } = await open(browser, {});
  await signIn(page);
  const send = (form, headers = {}) => page.request.post(`${address}${servicePath}/stop`, { form, maxRedirects: 0, headers: { origin: address, ...headers } });
  const forged = await send({ csrf: "0".repeat(64) });
  assert.equal(forged.status(), 400);
  assert.match(await forged.text(), /does not come from a page of this session/);
  assert.equal((await send({})).status(), 400, "a form without the token is refused");
  const foreign = await send({}, { origin: "http://evil.example" });
  assert.equal(foreign.status(), 401, "a form from another site is refused");
  await page.goto(`${address}${servicePath}`);
  await page.getByRole("button", { name: "Stop" }).waitFor();
  // A destructive form without the name written out changes nothing.
  await page.goto(`${address}/stacks/${stack}`);
  await page.getByText("Remove this stack").click();
  await page.getByLabel(/to confirm/).fill("another");
  await page.getByRole("button", { name: "Remove the stack" }).click();
  await page.getByText(`Nothing was removed: to confirm, write`).waitFor();
  await context.close();
}

async function tokens(browser) {
  const { context, page } = await open(browser, {});
  await signIn(page, "/tokens");
  await page.getByLabel("What is it for?").fill("<b>browser test</b>");
  await page.getByRole("button", { name: "Make the token" }).click();
  await page.getByText("cannot be shown again").waitFor();
  const token = await page.locator(".once code").first().innerText();
  await shoot(page, "token-made");
  const asked = () => page.request.get(`${address}/api/v1/stacks`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal((await asked()).status(), 200);
  await page.goto(`${address}/tokens`);
  assert.ok(!(await page.content()).includes(token), "the token is shown once");
  await page.getByRole("button", { name: "Revoke <b>browser test</b>" }).click();
  await page.getByRole("button", { name: "Revoke the token" }).click();
  await page.getByText("The token is revoked").waitFor();
  assert.equal((await asked()).status(), 401);
  await page.goto(`${address}/servers/new`);
  await page.getByRole("button", { name: "Make a token" }).click();
  await page.getByText("Waiting for the machine").waitFor();
  assert.match(await page.locator(".copyable code").innerText(), /^mainstay agent --join http:\S+ --token mst_join_\S+$/);
  await shoot(page, "join-made");
  await context.close();
}

async function signingOut(browser) {
  const { context, page } = await open(browser, {});
  await signIn(page);
  const other = await context.newPage();
  await other.goto(`${address}/`);
  await other.getByText("Live", { exact: true }).waitFor({ timeout: LIVE_LIMIT_MS });
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL(`${address}/login`);
  // The other page's stream ends with the session and leads to the sign-in.
  await other.waitForURL(`${address}/login`, { timeout: LIVE_LIMIT_MS });
  await context.close();
}

// How soon something is seen: a figure for a person, not a judgement, which would be one about this machine. A page of
// one word is beside them, because that is what this browser takes for itself; the pages take turns, so that what else
// the machine does is spread over all. Not through `open`: what looks at every request also turns off the cache, and a
// visitor has style and script from the page before.
async function firstPaint(browser) {
  const context = await browser.newContext(VIEWS[0]);
  const page = await context.newPage();
  await signIn(page);
  const shown = [["one word", "/healthz"], ...Object.entries(await pages(page))];
  const painted = new Map(shown.map(([name]) => [name, []]));
  for (let load = 0; load < LOADS; load++) {
    for (const [name, path] of shown) {
      await page.goto(`${address}${path}`);
      const entry = await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
      painted.get(name).push(await entry.jsonValue());
    }
  }
  for (const [name, times] of painted) {
    times.sort((a, b) => a - b);
    const [median, worst] = [times[LOADS >> 1], times[LOADS - 1]].map((ms) => ms.toFixed(0));
    console.log(`first paint of ${name}: ${median} ms, at worst ${worst} ms (${LOADS} loads)`);
  }
  await context.close();
}

await walk([wrongPassword, firstPaint, everyPage, keyboard, live, refusals, tokens, withoutScript, signingOut]);
