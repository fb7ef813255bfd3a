// The first hour of a new user, on a control plane that has nothing yet: from the empty overview over a machine that
// joins to a release, one that fails, and the way back. What people do at a terminal is done by `mainstay`.
//
// MAINSTAY_ADDRESS, MAINSTAY_PASSWORD, CHROMIUM, SHOTS   as in people.mjs
// MAINSTAY            the binary; its directories are named by variables that it knows
// REPOSITORY          the service `web` of a stack `shop`, whose manifest is to be written
// APPLICATION         what runs as the service
// GATEWAY             address of the gateway that the machine will have
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { axeProblems } from "./axe.mjs";
import { LIVE_LIMIT_MS, address, needed, open, password, shoot, walk } from "./people.mjs";

const [binary, repository, application, gateway] = ["MAINSTAY", "REPOSITORY", "APPLICATION", "GATEWAY"].map(needed);
const run = promisify(execFile);
const servicePath = "/stacks/shop/services/web";
const SEEN = { timeout: 3 * LIVE_LIMIT_MS };
const DESK = { viewport: { width: 1280, height: 800 } };
let session;

// Commits a release and deploys it; answers exit code and output of `mainstay deploy`.
async function deploy(version, { health = "/healthz", delayMs = 0 } = {}) {
  writeFileSync(`${repository}/mainstay.toml`, `name = "shop"

[services.web]
run = "exec ${application} ${version}"
route = "/"
health = { http = "${health}", interval = "200ms", start_grace = "1s" }

[services.web.env]
START_DELAY_MS = "${delayMs}"

[services.web.rollout]
healthy_within = "4s"
`);
  const git = (...words) => run("git", ["-C", repository, ...words]);
  await git("add", "--all");
  await git("commit", "--quiet", "--message", `Release ${version}`);
  return run(binary, ["deploy"], { cwd: repository }).then(
    (said) => ({ code: 0, text: said.stdout + said.stderr }),
    (error) => ({ code: error.code, text: error.stdout + error.stderr }),
  );
}

async function answering() {
  const answer = await fetch(gateway);
  return (await answer.text()).split(" ").slice(0, 2).join(" ");
}

// A page of the one session, watched for what goes wrong in it.
async function look(browser, path, options = DESK) {
  const opened = await open(browser, { ...options, storageState: session });
  await opened.page.goto(`${address}${path}`);
  await opened.page.evaluate(() => { window.loadedOnce = true; });
  return opened;
}

async function done({ context, page, problems }, { once = true } = {}) {
  if (once) assert.equal(await page.evaluate(() => window.loadedOnce), true, "the page was loaded again");
  assert.deepEqual(problems, []);
  await context.close();
}

async function aNewUserSignsInAndIsTaughtWhatToDo(browser) {
  const opened = await open(browser, DESK);
  const { context, page } = opened;
  await page.goto(address);
  await page.getByLabel("User").fill("admin");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Deploy your first service" }).waitFor();
  assert.deepEqual(await axeProblems(page), []);
  await shoot(page, "story-1-empty");
  session = await context.storageState();
  await done(opened, { once: false });
}

async function aMachineJoinsWithOneLineAndIsSeenArriving(browser) {
  const opened = await look(browser, "/");
  const { page } = opened;
  await page.getByRole("link", { name: "Add a server" }).first().click();
  await page.getByLabel("What is it called?").fill("harbour");
  await page.getByRole("button", { name: "Make a token" }).click();
  await page.getByText("Waiting for the machine").waitFor();
  await page.evaluate(() => { window.loadedOnce = true; });
  const line = await page.locator(".copyable code").innerText();
  const [program, ...words] = line.split(" ");
  assert.equal(program, "mainstay");
  // The line as it is, with the name that was given: two machines of one test have the same host name.
  const agent = spawn(binary, words, { stdio: "ignore", detached: true, cwd: repository });
  agent.unref();
  await page.getByText("harbour has joined").waitFor(SEEN);
  assert.deepEqual(await axeProblems(page), []);
  await shoot(page, "story-2-joined");
  await shoot(page, "docs-join", false);
  await done(opened);
}

async function theFirstReleaseIsSeenOnTheOverviewAsItComes(browser) {
  const opened = await look(browser, "/");
  const { page } = opened;
  const deployed = await deploy("v1");
  assert.equal(deployed.code, 0, deployed.text);
  await page.getByRole("heading", { name: "Everything runs as it should" }).waitFor(SEEN);
  assert.equal(await answering(), "version v1");
  assert.deepEqual(await axeProblems(page), []);
  await shoot(page, "story-3-runs");
  await shoot(page, "docs-overview", false);
  await done(opened);
}

async function theStagesOfAReleaseMoveOnThePage(browser) {
  const opened = await look(browser, servicePath);
  const { page } = opened;
  const deployed = deploy("v2", { delayMs: 1500 });
  const stage = (name) => page.locator("#deployment [aria-current=step]").filter({ hasText: name }).waitFor(SEEN);
  await stage("Starting");
  await shoot(page, "story-4-starting");
  const { code, text } = await deployed;
  assert.equal(code, 0, text);
  await page.locator("#deployment .badge.good").waitFor(SEEN);
  assert.equal(await answering(), "version v2");
  await done(opened);
}

async function aReleaseThatFailsIsExplained(browser) {
  const opened = await look(browser, servicePath);
  const { page } = opened;
  const deployed = await deploy("v3", { health: "/status/503" });
  assert.equal(deployed.code, 3, deployed.text);
  const failure = page.locator("#deployment");
  await failure.locator(".badge.bad").first().waitFor(SEEN);
  const said = await failure.innerText();
  assert.match(said, /503/, "the last probe is shown");
  assert.match(said, /e2e-app v3 listens on/, "the end of the log is shown");
  assert.match(said, /while starting|Starting/i, "the stage is named");
  assert.equal(await answering(), "version v2", "what ran goes on");
  assert.deepEqual(await axeProblems(page), []);
  await shoot(page, "story-5-failed");
  await shoot(page, "docs-failed", false);
  await done(opened);
}

async function oneButtonGoesBack(browser) {
  const opened = await look(browser, servicePath);
  const { page } = opened;
  await page.getByRole("button", { name: "Roll back to 1" }).click();
  await page.getByRole("button", { name: "Go back to revision 1" }).click();
  await page.getByText("has begun").first().waitFor();
  await page.locator("#deployment .badge.good").waitFor(SEEN);
  for (const until = Date.now() + LIVE_LIMIT_MS; (await answering()) !== "version v1";) {
    assert.ok(Date.now() < until, `still ${await answering()}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await shoot(page, "story-6-back");
  await done(opened, { once: false });
}

async function logsAreSearched(browser) {
  const opened = await look(browser, servicePath);
  const { page } = opened;
  const lines = page.locator("#log-lines .line:visible");
  await lines.first().waitFor();
  const all = await lines.count();
  await page.getByRole("searchbox").first().fill("v3 listens");
  await page.waitForFunction((before) => [...document.querySelectorAll("#log-lines .line")].filter((line) => line.checkVisibility()).length < before, all);
  const found = await lines.allInnerTexts();
  assert.ok(found.length > 0 && found.every((line) => line.includes("v3 listens")), `${found}`);
  await done(opened);
}

// Tab until the focus is on it, as somebody without a mouse does.
async function tabTo(page, role, name) {
  for (let presses = 0; presses < 150; presses += 1) {
    await page.keyboard.press("Tab");
    const target = page.getByRole(role, { name, exact: true }).first();
    if ((await target.count()) && (await target.evaluate((element) => element === document.activeElement))) {
      const outline = await target.evaluate((element) => getComputedStyle(element).outlineStyle);
      assert.notEqual(outline, "none", `the focus on ${name} cannot be seen`);
      return;
    }
  }
  assert.fail(`Tab does not lead to ${role} ${name}`);
}

async function everythingIsReachedWithTheKeyboardAlone(browser) {
  const opened = await open(browser, DESK);
  const { page } = opened;
  await page.goto(`${address}/login`);
  await tabTo(page, "textbox", "User");
  await page.keyboard.type("admin");
  await page.keyboard.press("Tab");
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");
  await page.waitForURL(`${address}/`);
  await tabTo(page, "link", "web");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${address}${servicePath}`);
  await tabTo(page, "button", "Restart");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${address}${servicePath}/restart?`);
  await tabTo(page, "button", "Restart web");
  await page.keyboard.press("Enter");
  await page.getByText("Restart of web has begun.").waitFor();
  await done(opened, { once: false });
}

async function everythingIsThereOnAPhone(browser) {
  const opened = await look(browser, servicePath, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const { page } = opened;
  // What has words beside it can be tapped there as well.
  const wrong = await page.locator("main :is(button, a.button, input, select):visible").evaluateAll((controls) => controls.flatMap((control) => {
    const { left, right, height } = [control, ...(control.labels ?? [])].map((element) => element.getBoundingClientRect()).sort((a, b) => b.height - a.height)[0];
    return left < 0 || right > innerWidth || height < 24 ? [`${Math.round(left)} to ${Math.round(right)}, ${Math.round(height)} high: ${control.outerHTML}`] : [];
  }));
  assert.deepEqual(wrong, [], "controls are out of the screen or too small for a finger");
  await page.getByRole("button", { name: "Restart" }).tap();
  await page.getByRole("button", { name: "Restart web" }).tap();
  await page.getByText("Restart of web has begun.").waitFor();
  await shoot(page, "story-7-phone");
  await done(opened, { once: false });
}

await walk([
  aNewUserSignsInAndIsTaughtWhatToDo,
  aMachineJoinsWithOneLineAndIsSeenArriving,
  theFirstReleaseIsSeenOnTheOverviewAsItComes,
  theStagesOfAReleaseMoveOnThePage,
  aReleaseThatFailsIsExplained,
  oneButtonGoesBack,
  logsAreSearched,
  everythingIsReachedWithTheKeyboardAlone,
  everythingIsThereOnAPhone,
]);
