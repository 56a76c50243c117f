// A browser and TLS: node tls.mjs URL SPKI, with the SHA-256 of the server's public key in base64.
// wss over HTTP/1.1, and over HTTP/2 (RFC 8441), as ALPN has it. Started by run.sh, which sets CHROMIUM and PLAYWRIGHT_CORE.
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { chromium } = require(process.env.PLAYWRIGHT_CORE || 'playwright-core');
const [url, spki] = process.argv.slice(2);
let failed = 0;
const bound = setTimeout(() => {
  console.log('FAILED the whole test took more than 150 s');
  process.exit(1);
}, 150_000);

// In the page: a WebSocket that asks the server to show the request, then sends messages of some sizes.
async function talk() {
  const socket = new WebSocket(`wss://${location.host}/echo`, 'switchpoint.handshake');
  socket.binaryType = 'arraybuffer';
  const messages = [];
  let wake = () => {};
  socket.onmessage = (event) => { messages.push(event.data); wake(); };
  const ended = new Promise((resolve) => { socket.onclose = resolve; });
  const next = async () => {
    while (!messages.length) await Promise.race([new Promise((resolve) => { wake = resolve; }), ended.then(() => { throw new Error('closed'); })]);
    return messages.shift();
  };
  const head = await next();
  for (const size of [0, 5, 125, 70_000, 1_000_000]) {
    const sent = new Uint8Array(size).map((_, i) => i % 251);
    socket.send(sent);
    const got = new Uint8Array(await next());
    if (got.length !== size || got.some((byte, i) => byte !== sent[i])) throw new Error(`${size} bytes came back as others`);
  }
  await new Promise((resolve) => setTimeout(resolve, 600)); // longer than it takes to be parked
  socket.send('still there?');
  if ((await next()) !== 'still there?') throw new Error('it was not');
  socket.close(1000);
  const { code, wasClean } = await ended;
  return {
    head,
    code,
    wasClean,
    page: performance.getEntriesByType('navigation')[0].nextHopProtocol,
    isSecureContext,
    extensions: socket.extensions,
  };
}

for (const [name, page, start, args] of [
  ['HTTP/2', 'h2', 'CONNECT /echo HTTP/2', []],
  ['HTTP/1.1', 'http/1.1', 'GET /echo HTTP/1.1', ['--disable-http2']],
]) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    headless: true,
    timeout: 60_000, // a browser starts slowly on a machine that builds
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      `--ignore-certificate-errors-spki-list=${spki}`, ...args],
  });
  try {
    const tab = await (await browser.newContext()).newPage();
    await tab.goto(url, { timeout: 30_000 });
    const said = await tab.evaluate(talk);
    const asked = JSON.parse(said.head).request.split('\r\n')[0];
    const wrong = [
      said.page === page || `the page came by ${said.page}`,
      asked === start || `the request was ${asked}`,
      (said.code === 1000 && said.wasClean) || `it was closed with ${said.code}`,
      said.isSecureContext || 'the context is not secure',
    ].filter((fact) => fact !== true);
    if (wrong.length) throw new Error(wrong.join('; '));
    console.log(`ok      wss over ${name}: ${asked}; extensions: ${said.extensions || 'none'}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  wss over ${name}: ${String(error.message || error).split('\n').slice(0, 3).join(' | ')}`);
  }
  await browser.close();
}
clearTimeout(bound);
process.exit(failed ? 1 : 0);
