// What axe-core finds on a page: rules of the WCAG up to 2.2 AA, and good practice.
import axe from "axe-core";
import { laidOut } from "./people.mjs";

// Put in by the browser itself, so the page's policy, which allows no script but its own, stays as it is.
export async function axeProblems(page) {
  await page.evaluate(`${axe.source}; undefined`);
  const run = () => page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const { violations } = await laidOut(page, run);
  return violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${rule.help}: ${node.html}: ${node.failureSummary}`));
}
