// Looks at pages with a headless Chromium on request (see lines.mjs).
//
//   node browser.mjs CHROMIUM      the path of its executable

import { chromium } from 'playwright-core';
import { serve } from './lines.mjs';

const WAIT_MS = 10000;

const browser = await chromium.launch({ executablePath: process.argv[2] });
const page = await browser.newPage({ viewport: { width: 1600, height: 1200 }, locale: 'en-US' });
page.setDefaultTimeout(WAIT_MS);

// Nothing but this machine is asked for anything (the board would fetch its fonts).
const local = (url) => new URL(url).hostname === '127.0.0.1';
await page.route((url) => !local(url), (route) => route.abort());

let problems = []; // what went wrong on the page, whether or not what was looked for is there
page.on('pageerror', (error) => problems.push(`error: ${error.message}`));
page.on('requestfailed', (request) => local(request.url()) && problems.push(`failed: ${request.url()}`));
page.on('response', (response) => {
  if (response.status() >= 400) problems.push(`${response.status()}: ${response.url()}`);
});

const visible = (text) => page.getByText(text).filter({ visible: true }).first().waitFor();

serve({
  // Open a page (or press buttons of the one that is open), wait until `texts` can be seen on it, answer what it shows.
  see: async ({ url, press, texts }) => {
    problems = [];
    if (url) await page.goto(url);
    for (const name of press) await page.getByRole('button', { name }).first().click();
    for (const text of texts) await visible(text);
    return { text: await page.locator('body').innerText(), problems };
  },
}, undefined, () => browser.close());
