// Speaks x402 v2 with the reference package, @x402/core. It reads one JSON object from standard
// input and writes one to standard output.
//
//   {"do": "parse", "header": PAYMENT-REQUIRED, "body": the 402's body}
//   {"do": "pay", "url", "method", "body", "payload": the scheme's own, "extensions"}

import { createRequire } from "node:module";
import { join } from "node:path";
import { argv, stdin, stdout } from "node:process";

const require = createRequire(join(argv[2], "none.js"));
const schemas = require("@x402/core/schemas");
const { x402Client, x402HTTPClient } = require("@x402/core/client");
const { decodePaymentRequiredHeader } = require("@x402/core/http");

function parse({ header, body }) {
  const decoded = decodePaymentRequiredHeader(header);
  return {
    header: schemas.validatePaymentRequired(decoded),
    body: schemas.validatePaymentRequired(body),
    isV2: schemas.isPaymentRequiredV2(decoded) && schemas.isPaymentRequiredV2(body),
  };
}

async function pay({ url, method, body, payload, extensions }) {
  const scheme = {
    scheme: "actp-escrow",
    createPaymentPayload: async (x402Version) => ({ x402Version, payload, extensions }),
  };
  // The default controls know the assets of the scheme "exact" alone.
  const core = new x402Client().register("eip155:*", scheme).setSpendControls(false);
  const client = new x402HTTPClient(core);
  const ask = (headers) => fetch(url, { method, body, headers });

  const first = await ask({});
  const required = client.getPaymentRequiredResponse((name) => first.headers.get(name));
  const made = await client.createPaymentPayload(required);
  const headers = client.encodePaymentSignatureHeader(made);
  const second = await ask(headers);
  const answer = { asked: first.status, status: second.status, headers, body: await second.text() };
  if (second.status === 200) {
    answer.settled = client.getPaymentSettleResponse((name) => second.headers.get(name));
  }
  answer.isPayload = schemas.isPaymentPayloadV2(made);
  return answer;
}

let text = "";
for await (const piece of stdin) text += piece;
const order = JSON.parse(text);
stdout.write(JSON.stringify(await (order.do === "pay" ? pay(order) : parse(order))));
