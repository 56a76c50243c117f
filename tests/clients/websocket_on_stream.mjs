// websocket_on_stream.mjs http://HOST:PORT: node's http2 opens 50 WebSockets on one connection (RFC 8441), at /echo.
import http2 from 'node:http2';
import crypto from 'node:crypto';

const session = http2.connect(process.argv[2]);
const deadline = setTimeout(() => fail(new Error('not done after 30 s')), 30_000);
function fail(error) {
  console.log(`FAILED  ${error.message}`);
  process.exit(1);
}
session.on('error', fail);
session.on('goaway', (code) => code && fail(new Error(`GOAWAY ${code}`)));

function frame(opcode, payload) {
  const mask = crypto.randomBytes(4);
  const head = [0x80 | opcode];
  if (payload.length < 126) head.push(0x80 | payload.length);
  else if (payload.length < 65536) head.push(0x80 | 126, payload.length >> 8, payload.length & 255);
  else head.push(0x80 | 127, 0, 0, 0, 0, ...[24, 16, 8, 0].map((shift) => (payload.length >> shift) & 255));
  const masked = Buffer.from(payload);
  for (let i = 0; i < masked.length; i++) masked[i] ^= mask[i & 3];
  return Buffer.concat([Buffer.from(head), mask, masked]);
}

function parse(bytes) {
  if (bytes.length < 2) return null;
  let [length, at] = [bytes[1] & 127, 2];
  if (length === 126) [length, at] = [bytes.length < 4 ? Infinity : bytes.readUInt16BE(2), 4];
  else if (length === 127) [length, at] = [bytes.length < 10 ? Infinity : Number(bytes.readBigUInt64BE(2)), 10];
  if (bytes.length < at + length) return null;
  return { opcode: bytes[0] & 15, payload: bytes.subarray(at, at + length), size: at + length };
}

function socket(number) {
  return new Promise((resolve, reject) => {
    const stream = session.request(
      { ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/echo', 'sec-websocket-version': '13' },
      { endStream: false },
    );
    const large = Buffer.alloc(300_000, number);
    const expected = [[1, Buffer.from(`hello ${number}`)], [10, Buffer.from('ping')], [2, large], [8, Buffer.from([3, 232])]];
    let got = Buffer.alloc(0);
    stream.on('response', (headers) => {
      if (headers[':status'] !== 200) return reject(new Error(`status ${headers[':status']}`));
      stream.write(frame(1, expected[0][1]));
      stream.write(frame(9, Buffer.from('ping')));
      stream.write(frame(2, large));
    });
    stream.on('data', (chunk) => {
      got = Buffer.concat([got, chunk]);
      for (let found; (found = parse(got)); got = got.subarray(found.size)) {
        const [opcode, payload] = expected.shift();
        // A pong overtakes messages.
        if (found.opcode !== opcode && found.opcode === 10) { expected.unshift([opcode, payload]); expected.splice(expected.findIndex(([o]) => o === 10), 1); continue; }
        if (found.opcode !== opcode && opcode === 10) { const [next] = expected.splice(0, 1); expected.unshift([10, payload]); if (found.opcode !== next[0] || !found.payload.equals(next[1])) return reject(new Error('a message came back changed')); }
        else if (found.opcode !== opcode || !found.payload.equals(payload)) return reject(new Error(`opcode ${found.opcode} with ${found.payload.length} bytes, not ${opcode}`));
        if (expected.length === 1 && expected[0][0] === 8) stream.write(frame(8, Buffer.from([3, 232])));
      }
      if (expected.length === 0) stream.end();
    });
    stream.on('error', reject);
    stream.on('close', () => (expected.length === 0 ? resolve() : reject(new Error(`closed early, ${stream.rstCode}`))));
  });
}

session.once('remoteSettings', async (settings) => {
  if (!settings.enableConnectProtocol) fail(new Error('no SETTINGS_ENABLE_CONNECT_PROTOCOL'));
  try {
    await Promise.all(Array.from({ length: 50 }, (_, number) => socket(number)));
  } catch (error) {
    fail(error);
  }
  console.log('ok      node: 50 WebSockets on one connection, text, ping, 300000 bytes, close');
  clearTimeout(deadline);
  session.close();
});
