// The browser test of the built-in page: node page.mjs URL OUT_DIR
// Started by run.sh, which sets CHROMIUM and PLAYWRIGHT_CORE.
import { createRequire } from 'node:module';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import path from 'node:path';

const require = createRequire(import.meta.url);
const { chromium, selectors } = require(process.env.PLAYWRIGHT_CORE || 'playwright-core');
const [url, out] = process.argv.slice(2);
if (!url || !out) {
  console.error('usage: node page.mjs URL OUT_DIR');
  process.exit(2);
}
const site = new URL(url);
selectors.setTestIdAttribute('id');
const WAIT = 5000;
let failed = 0;

async function check(name, run) {
  try {
    const more = await run();
    console.log(`ok ${name}${typeof more === 'string' && more ? `: ${more}` : ''}`);
  } catch (e) {
    failed++;
    console.log(`FAILED ${name}: ${String(e.message || e).split('\n').slice(0, 3).join(' | ')}`);
  }
}
function same(got, want, what) {
  if (got !== want) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}
function truth(x, what) {
  if (!x) throw new Error(what);
}

let browser;
const bound = setTimeout(() => {
  console.log('FAILED the whole test took more than 120 s');
  // The browser is a child of this process; playwright ends it on exit.
  process.exit(1);
}, 120_000);

// A page whose console errors, script errors and foreign requests are noted.
async function open(options = {}, init) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(WAIT);
  const page = await context.newPage();
  const errors = [], foreign = [];
  page.on('console', m => m.type() === 'error' && errors.push(m.text()));
  page.on('pageerror', e => errors.push(String(e)));
  const note = address => {
    const u = new URL(address);
    if (u.protocol !== 'data:' && u.host !== site.host) foreign.push(address);
  };
  page.on('request', r => note(r.url()));
  page.on('websocket', w => note(w.url()));
  if (init) await page.addInitScript(init);
  const answer = await page.goto(url);
  const id = name => page.getByTestId(name);
  const state = name => page.locator(`html[data-state="${name}"]`).waitFor({ state: 'attached' });
  return { context, page, errors, foreign, answer, id, state };
}
// The text of a head as shown, without the explanations.
const lines = (page, id) => page.locator(`#${id} .line`).allTextContents();
const value = (list, name) =>
  list.find(l => l.toLowerCase().startsWith(name.toLowerCase() + ':'))?.slice(name.length + 1).trim();
const overflow = page => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
const noOverflow = async page => {
  const over = await overflow(page);
  truth(over <= 0, `the page is ${over} px too wide`);
};
const accept = key =>
  createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
// Another WebSocket server: it chooses no subprotocol and answers every short
// message with the same message, its last byte changed.
async function stranger() {
  const server = createServer((_, answer) => answer.end());
  server.on('upgrade', (request, socket) => {
    socket.on('error', () => {});
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      `Sec-WebSocket-Accept: ${accept(request.headers['sec-websocket-key'])}\r\n\r\n`);
    socket.on('data', frame => {
      const length = frame[1] & 127, data = frame.subarray(6, 6 + length).map((x, i) => x ^ frame[2 + (i & 3)]);
      if ((frame[0] & 15) === 8) return socket.end(Buffer.from([0x88, length, ...data]));
      data[length - 1] ^= 1;
      socket.write(Buffer.from([frame[0], length, ...data]));
    });
  });
  await new Promise(done => server.listen(0, '127.0.0.1', done));
  server.unref();
  return `ws://127.0.0.1:${server.address().port}/`;
}
const pause = ms => new Promise(done => setTimeout(done, ms));

try {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    headless: true,
    timeout: 60_000, // a browser starts slowly on a machine that builds
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const light = await open({ colorScheme: 'light' });
  const { page, errors, foreign, answer, id, state } = light;
  const shot = (p, name) => p.screenshot({ path: path.join(out, name), fullPage: true });
  const last = dir => page.locator(`#log .row.${dir}`).last();
  const received = n =>
    page.locator('#log .row.recv').nth(n - 1).waitFor();

  await check('the page loads', async () => {
    same(answer.status(), 200, 'status');
    truth(/^text\/html/.test(answer.headers()['content-type'] || ''), 'content-type is not text/html');
    return `${(await answer.body()).length} bytes`;
  });
  await check('it forbids outside resources', async () => {
    const csp = answer.headers()['content-security-policy'] || '';
    truth(csp.includes("default-src 'none'"), `Content-Security-Policy is ${JSON.stringify(csp)}`);
  });
  await check('the address defaults to /echo on this host', async () => {
    const scheme = site.protocol === 'https:' ? 'wss' : 'ws';
    same(await id('address').inputValue(), `${scheme}://${site.host}/echo`, 'address');
    same(await id('state').textContent(), 'Not connected', 'state');
  });
  await check('screenshot before connecting', () => shot(page, 'idle-light.png'));

  await check('it connects', async () => {
    await id('connect').click();
    await state('open');
    return id('took').textContent();
  });
  await check('the handshake panel shows both heads', async () => {
    await id('accept-verdict').waitFor();
    const req = await lines(page, 'request-head'), res = await lines(page, 'response-head');
    same(req[0], 'GET /echo HTTP/1.1', 'request line');
    same(res[0], 'HTTP/1.1 101 Switching Protocols', 'status line');
    same(value(req, 'Upgrade')?.toLowerCase(), 'websocket', 'request Upgrade');
    same(value(res, 'Upgrade')?.toLowerCase(), 'websocket', 'response Upgrade');
    same(value(res, 'Sec-WebSocket-Protocol'), 'switchpoint.handshake', 'subprotocol');
    return `${req.length} and ${res.length} lines`;
  });
  await check('Sec-WebSocket-Accept is recomputed and matches', async () => {
    const key = value(await lines(page, 'request-head'), 'Sec-WebSocket-Key');
    same(await id('accept-verdict').textContent(), '✓ matches', 'verdict');
    same(await id('accept-computed').textContent(), accept(key), 'computed value');
    return `by ${await id('accept').getAttribute('data-by')}`;
  });

  await check('text comes back, with a round-trip time', async () => {
    await id('text').fill('hello <b>Ünïcode</b> 🚂');
    await id('text').press('Enter');
    await received(1);
    const row = last('recv');
    truth((await row.textContent()).includes('hello <b>Ünïcode</b> 🚂'), 'the text is not shown as text');
    same(await row.locator('b').count(), 0, 'elements made from data');
    same(await row.getAttribute('data-ok'), 'true', 'verified');
    const rtt = Number(await row.getAttribute('data-rtt'));
    truth(rtt >= 0 && rtt < WAIT, `round trip is ${rtt}`);
    return `${rtt.toFixed(1)} ms`;
  });
  await check('a file of 70,000 bytes comes back equal', async () => {
    const buffer = Buffer.alloc(70_000, (_ => Uint8Array.from({ length: 251 }, (_, i) => i))());
    await id('file').setInputFiles({ name: 'track.bin', mimeType: 'application/octet-stream', buffer });
    await received(2);
    const row = last('recv');
    same(await row.getAttribute('data-kind'), 'binary', 'kind');
    same(await row.getAttribute('data-size'), '70000', 'size');
    same(await row.getAttribute('data-ok'), 'true', 'verified');
    truth((await row.textContent()).includes('00 01 02 03'), 'the first bytes are not shown in hex');
  });
  await check('a text of 20,000 characters stays within the page', async () => {
    await id('text').fill('a very long line '.repeat(1177).slice(0, 20_000));
    await id('text').press('Enter');
    await received(3);
    same(await last('recv').getAttribute('data-size'), '20000', 'size');
    await noOverflow(page);
  });
  await check('a burst of 100 messages is verified in order', async () => {
    await id('burst').click();
    await page.waitForFunction(() => document.querySelector('#sum-verified').textContent === '103');
    truth((await id('sum-received').textContent()).startsWith('103 '), 'received');
    truth(/^[\d.]+ \/ [\d.]+ \/ [\d.]+ ms$/.test(await id('rtt').textContent()), 'no min / median / max');
    return id('rtt').textContent();
  });
  await check('the log stays bounded', async () => {
    for (let i = 0; i < 3; i++) await id('burst').click();
    await page.waitForFunction(() => document.querySelector('#sum-verified').textContent === '403');
    const rows = await page.locator('#log .row').count();
    same(rows, 500, 'rows');
  });
  await check('a close code outside the rules is refused', async () => {
    await id('close-code').fill('1001');
    await id('close').click();
    same(await page.locator('html').getAttribute('data-state'), 'open', 'state');
    truth(!(await id('close-code').evaluate(e => e.checkValidity())), 'the code is taken as valid');
  });
  await check('screenshot, light', async () => {
    await id('text').fill('All aboard');
    await id('text').press('Enter');
    await page.waitForFunction(() => document.querySelector('#sum-verified').textContent === '404');
    await shot(page, 'open-light.png');
  });
  await check('it closes cleanly with code 3001 and a reason', async () => {
    await id('close-code').fill('3001');
    await id('close-reason').fill('end of the line');
    await id('close').click();
    await state('closed');
    same(await id('closed').getAttribute('data-code'), '3001', 'code');
    same(await id('closed').getAttribute('data-clean'), 'true', 'wasClean');
    const text = await id('closed').textContent();
    truth(text.includes('end of the line'), `the reason is missing: ${text}`);
  });
  await check('screenshot after closing', () => shot(page, 'closed-light.png'));
  await check('no console errors', () => same(errors.join(' | '), '', 'errors'));

  await check('a failing connect shows the reason', async () => {
    await id('address').fill('/nope');
    await id('connect').click();
    await state('failed');
    await page.waitForFunction(() => /404/.test(document.querySelector('#failure').textContent));
    const text = await id('failure').textContent();
    truth(text.includes('no-such-path'), `the reason is missing: ${text}`);
    truth(text.includes('Browsers do not tell'), `the explanation is missing: ${text}`);
    await shot(page, 'failed-light.png');
  });
  await check('an address that is none is explained', async () => {
    await id('address').fill('ftp://example');
    await id('connect').click();
    truth((await id('failure').textContent()).includes('ws://'), 'no explanation');
  });
  await check('the failing connect left only its own two errors', () => {
    const other = errors.filter(e => !/\/nope|status of 404/.test(e));
    same(other.join(' | '), '', 'errors');
  });
  await check('it connects again, without asking for the handshake', async () => {
    await id('address').fill('/echo');
    await id('offer').uncheck();
    await id('connect').click();
    await state('open');
    await id('handshake-note').waitFor();
    truth(await id('request-head').isHidden(), 'the heads of the last connection are still shown');
    await id('text').fill('first message');
    await id('text').press('Enter');
    await received(1);
    same(await last('recv').getAttribute('data-ok'), 'true', 'verified');
    await id('disconnect').click();
    await state('closed');
    same(await id('closed').getAttribute('data-code'), '1000', 'code');
  });

  // The server is started with --recent-handshakes; one that is not does not show them.
  const shown = await page.evaluate(() => 'handshakes' in document.documentElement.dataset);
  await check('recent handshakes are listed, made and refused, with reason and cure', async () => {
    same(await id('recent').isVisible(), shown, 'the list is visible');
    if (!shown) return 'not enabled';
    const made = page.locator('#handshakes li[data-outcome="switched"]').first();
    const refused = page.locator('#handshakes li[data-reason="no-such-path"]').first();
    await made.waitFor();
    await refused.waitFor();
    truth((await made.textContent()).includes('/echo asks for websocket'), await made.textContent());
    truth((await made.textContent()).includes('127.0.0.0/24'), 'the network is missing');
    const text = await refused.textContent();
    truth(text.includes('✗ 404 no-such-path') && text.includes('Check its spelling'), text);
    truth(!(await id('handshakes').textContent()).includes('127.0.0.1'), 'an address is shown');
    return `${await page.locator('#handshakes li').count()} handshakes`;
  });
  if (shown) await check('a handshake that comes later is shown, without its query', async () => {
    const asked = '/late?token=geheim';
    await page.evaluate(path => new Promise(done => {
      new WebSocket(path.replace(/^/, location.origin.replace(/^http/, 'ws'))).onerror = done;
    }), asked);
    const late = page.locator('#handshakes li', { hasText: '/late' }).first();
    await late.waitFor();
    truth(!(await page.locator('#handshakes').textContent()).includes('geheim'), 'a query is shown');
    await noOverflow(page);
    await page.screenshot({ path: path.join(out, 'recent-light.png'), fullPage: true });
  });

  const dark = await open({ colorScheme: 'dark' });
  await check('it works from the keyboard alone; screenshot, dark', async () => {
    const p = dark.page;
    await dark.id('address').focus();
    await p.keyboard.press('Enter');
    await dark.state('open');
    await dark.id('accept-verdict').waitFor();
    for (const t of ['All aboard', 'Mind the gap']) {
      await p.keyboard.type(t);
      await p.keyboard.press('Enter');
    }
    await p.locator('#log .row').nth(3).waitFor();
    await shot(p, 'open-dark.png');
  });
  await check('the in-page SHA-1 gives the same value; screenshot, 390 px', async () => {
    const s = await open({ viewport: { width: 390, height: 844 }, colorScheme: 'light' },
      () => Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined }));
    await s.id('connect').click();
    await s.id('accept-verdict').waitFor();
    same(await s.id('accept').getAttribute('data-by'), 'JavaScript', 'computed by');
    const key = value(await lines(s.page, 'request-head'), 'Sec-WebSocket-Key');
    same(await s.id('accept-computed').textContent(), accept(key), 'computed value');
    await s.id('text').fill('All aboard');
    await s.id('text').press('Enter');
    await s.id('file').setInputFiles({ name: 'a.bin', mimeType: 'application/octet-stream', buffer: Buffer.alloc(70_000, 7) });
    await s.page.waitForFunction(() => document.querySelector('#sum-verified').textContent === '2');
    await noOverflow(s.page);
    await shot(s.page, 'open-narrow.png');
    light.errors2 = s.errors; light.foreign2 = s.foreign;
  });
  await check('another server: it goes on without the handshake and flags a wrong echo', async () => {
    const s = await open();
    await s.id('address').fill(await stranger());
    await s.id('connect').click();
    await s.state('open');
    truth((await s.id('handshake-note').textContent()).includes('does not show its handshake'), 'no note');
    await s.id('text').fill('All aboard');
    await s.id('text').press('Enter');
    const row = s.page.locator('#log .row.recv').first();
    await row.waitFor();
    same(await row.getAttribute('data-ok'), 'false', 'verified');
    truth((await s.id('sum-verified').textContent()).includes('1 differ'), 'the difference is not counted');
    await s.id('disconnect').click();
    await s.state('closed');
    same(await s.id('closed').getAttribute('data-clean'), 'true', 'wasClean');
  });
  await check('no request went to another origin', () =>
    same([...foreign, ...dark.foreign, ...(light.foreign2 || [])].join(' '), '', 'requests'));
  await check('no console errors in the other windows', () =>
    same([...dark.errors, ...(light.errors2 || [])].join(' | '), '', 'errors'));
} catch (e) {
  failed++;
  console.log(`FAILED browser: ${String(e.message || e).split('\n')[0]}`);
} finally {
  await Promise.race([browser?.close(), pause(3000)]).catch(() => {});
  clearTimeout(bound);
}
console.log(failed ? `${failed} failed; screenshots in ${out}` : `all passed; screenshots in ${out}`);
process.exit(failed ? 1 : 0);
