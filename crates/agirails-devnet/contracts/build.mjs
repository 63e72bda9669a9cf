// Compiles the contracts into ../artifacts, the same bytes on every machine.
//
//   node build.mjs                      writes the artifacts
//   node build.mjs --check              writes nothing; fails and names the artifacts that differ
//   node build.mjs --modules DIR        takes solc and OpenZeppelin from DIR (a node_modules);
//                                       default: the one that `make` installs under target/npm

import { readFileSync, readdirSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const artifacts = join(here, "..", "artifacts");
const { values: options } = parseArgs({
  options: {
    check: { type: "boolean", default: false },
    modules: { type: "string", default: join(here, "..", "..", "..", "target", "npm", "node_modules") },
  },
});
const modules = resolve(options.modules);

function fail(message) {
  console.error(message);
  process.exit(1);
}

function loadCompiler() {
  const wanted = JSON.parse(readFileSync(join(here, "package.json"), "utf8")).dependencies;
  for (const name of ["solc", "@openzeppelin/contracts"]) {
    let found;
    try {
      found = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")).version;
    } catch {
      fail(`${name} is not installed in ${modules}: run \`make contracts\``);
    }
    if (found !== wanted[name]) fail(`${name} is ${found} in ${modules}, needed is ${wanted[name]}`);
  }
  return createRequire(join(modules, "solc", "package.json"))("solc");
}

function compile(solc) {
  const own = readdirSync(here).filter((name) => name.endsWith(".sol")).sort();
  const sources = {};
  for (const name of own) sources[name] = { content: readFileSync(join(here, name), "utf8") };
  const input = {
    language: "Solidity",
    sources,
    settings: {
      evmVersion: "cancun",
      optimizer: { enabled: true, runs: 200 },
      viaIR: true,
      // What the metadata would append depends on where the sources lie.
      metadata: { bytecodeHash: "none", appendCBOR: false },
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const read = (path) => ({ contents: readFileSync(join(modules, path), "utf8") });
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));
  const messages = (output.errors ?? []).map((error) => error.formattedMessage);
  if (messages.length > 0) fail(messages.join("\n"));
  return own.flatMap((name) => Object.entries(output.contracts[name]));
}

// One line for each entry of the interface, so that a change of one is a change of one line.
function render(name, contract) {
  const abi = contract.abi.map((entry) => "    " + JSON.stringify(entry)).join(",\n");
  const bytecode = "0x" + contract.evm.bytecode.object;
  return `{\n  "contractName": ${JSON.stringify(name)},\n  "abi": [\n${abi}\n  ],\n  "bytecode": "${bytecode}"\n}\n`;
}

const built = new Map();
for (const [name, contract] of compile(loadCompiler())) {
  const bytes = contract.evm.deployedBytecode.object.length / 2;
  if (bytes > 24_576) fail(`${name} has ${bytes} bytes of code, a chain takes 24576`);
  // Interfaces have no code, and nothing deploys them.
  if (bytes > 0) built.set(`${name}.json`, render(name, contract));
  if (bytes > 0 && !options.check) console.log(`${name}: ${bytes} bytes of code`);
}

const present = () => readdirSync(artifacts).filter((name) => name.endsWith(".json"));
if (options.check) {
  const stored = new Map(present().map((name) => [name, readFileSync(join(artifacts, name), "utf8")]));
  const names = new Set([...stored.keys(), ...built.keys()]);
  const stale = [...names].filter((name) => stored.get(name) !== built.get(name)).sort();
  if (stale.length > 0) fail(`these artifacts differ from the contracts: ${stale.join(", ")}; run \`make contracts\``);
} else {
  mkdirSync(artifacts, { recursive: true });
  for (const name of present()) if (!built.has(name)) rmSync(join(artifacts, name));
  for (const [name, text] of built) writeFileSync(join(artifacts, name), text);
}
