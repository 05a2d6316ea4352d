// What clipsr.js does, on the command line:
//
//   node main.js HOST:PORT classify FILE LABEL,LABEL...
//   node main.js HOST:PORT stream FOLDER LABEL,LABEL...
//   node main.js HOST:PORT embed TEXT...
//
// TLS and API key come from CLIPSR_CA, CLIPSR_CERT, CLIPSR_KEY and CLIPSR_API_KEY. One line of JSON an answer.

import { opendir } from "node:fs/promises";
import path from "node:path";

import { classify, classifyStream, ClipsrError, close, connect, embedTexts } from "./clipsr.js";

const ENDINGS = new Set([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]);
const [url, command, target, ...rest] = process.argv.slice(2);

async function* imagesIn(folder) {
  for await (const entry of await opendir(folder)) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* imagesIn(file);
    if (entry.isFile() && ENDINGS.has(path.extname(file).toLowerCase())) yield file;
  }
}

function print(file, { predictions, route }) {
  const [best] = predictions;
  console.log(JSON.stringify({ file, label: best.label, cosine: best.cosine, probability: best.probability, route }));
}

function printError(file, { code, reason, message, violations }) {
  console.log(JSON.stringify({ file, error: { code, reason, message, violations } }));
}

async function run(service) {
  const options = { labelSpace: { labels: rest.join(",").split(",") }, topK: 1 };
  if (command === "classify") {
    print(target, await classify(service, target, options));
  } else if (command === "stream") {
    for await (const { file, classification, error } of classifyStream(service, imagesIn(target), options)) {
      if (error) printError(file, error);
      else print(file, classification);
    }
  } else if (command === "embed") {
    for (const values of await embedTexts(service, [target, ...rest])) console.log(JSON.stringify(values));
  } else {
    throw new Error("use: main.js HOST:PORT classify|stream|embed ...");
  }
}

const env = process.env;
const access = { ca: env.CLIPSR_CA, cert: env.CLIPSR_CERT, key: env.CLIPSR_KEY, apiKey: env.CLIPSR_API_KEY };
const service = await connect(url, access);
try {
  await run(service);
} catch (error) {
  if (error instanceof ClipsrError) printError(target, error);
  else console.error(error.message);
  process.exitCode = 1;
} finally {
  close(service);
}
