// A report of the load generator in a browser: node report.mjs FILE_URL OUT_DIR
// Started by run.sh, which sets CHROMIUM and PLAYWRIGHT_CORE.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);
const { chromium } = require(process.env.PLAYWRIGHT_CORE || 'playwright-core');
const [url, out] = process.argv.slice(2);
if (!url?.startsWith('file:') || !out) {
  console.error('usage: node report.mjs FILE_URL OUT_DIR');
  process.exit(2);
}
const SECTIONS = ['Phases', 'Percentiles', 'Connections', 'Send-lag', 'Heat map', 'Offered and answered', 'Latency over time', 'Machine'];
let failed = 0;
const bound = setTimeout(() => {
  console.log('FAILED the whole test took more than 90 s');
  process.exit(1);
}, 90_000);

function truth(x, what) {
  if (!x) throw new Error(what);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  timeout: 60_000, // a browser starts slowly on a machine that builds
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
const backgrounds = [];
try {
  for (const [colorScheme, width] of [['light', 1280], ['dark', 1280], ['light', 390]]) {
    const name = `${colorScheme} ${width}`;
    try {
      const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 } });
      const page = await context.newPage();
      const errors = [], requests = [];
      page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
      page.on('pageerror', (error) => errors.push(String(error)));
      page.on('request', (request) => requests.push(request.url()));
      await page.goto(url, { timeout: 20_000 });
      const seen = await page.evaluate(() => ({
        sections: [...document.querySelectorAll('h2')].map((head) => head.textContent),
        pictures: [...document.querySelectorAll('figure svg')].map((svg) => svg.getBoundingClientRect())
          .map(({ width, height }) => [width, height]),
        over: document.documentElement.scrollWidth - innerWidth,
        background: getComputedStyle(document.body).backgroundColor,
        colour: getComputedStyle(document.body).color,
      }));
      for (const section of SECTIONS) truth(seen.sections.includes(section), `there is no section ${section}`);
      truth(seen.pictures.length >= 6, `${seen.pictures.length} pictures`);
      truth(seen.pictures.every(([wide, high]) => wide > 200 && high > 60), `a picture is too small: ${JSON.stringify(seen.pictures)}`);
      truth(seen.over <= 0, `the page is ${seen.over} px too wide`);
      truth(seen.background !== seen.colour, 'text and background have one colour');
      backgrounds.push(seen.background);
      // A click on a name hides its curve, and another one shows it again.
      const hidden = () => page.evaluate(() =>
        [...document.querySelectorAll('figure svg path')].filter((line) => getComputedStyle(line).display === 'none').length);
      const legend = page.locator('figure button').first();
      truth((await hidden()) === 0, 'curves are hidden from the beginning');
      await legend.click({ timeout: 5000 });
      truth((await hidden()) > 0, 'a click hides no curve');
      await legend.click({ timeout: 5000 });
      truth((await hidden()) === 0, 'a second click does not show it again');
      // What can be downloaded is what was measured.
      const planned = await page.evaluate(async () => {
        const link = document.querySelector('a[download="loadgen.json"]');
        return JSON.parse(atob(link.href.split(',')[1])).messages.planned;
      });
      truth(planned > 0, 'the JSON within has no messages');
      truth(requests.length === 1, `it asked for ${requests.slice(1).join(' ')}`);
      truth(errors.length === 0, errors.join(' | '));
      await page.screenshot({ path: path.join(out, `report-${colorScheme}-${width}.png`), fullPage: true });
      console.log(`ok the report, ${name}`);
      await context.close();
    } catch (error) {
      failed++;
      console.log(`FAILED the report, ${name}: ${String(error.message || error).split('\n').slice(0, 3).join(' | ')}`);
    }
  }
  if (failed === 0 && backgrounds[0] === backgrounds[1]) {
    failed++;
    console.log('FAILED the report is as light in the dark');
  }
} finally {
  await Promise.race([browser.close(), new Promise((resolve) => setTimeout(resolve, 3000))]).catch(() => {});
  clearTimeout(bound);
}
process.exit(failed ? 1 : 0);
