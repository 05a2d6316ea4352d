// A client of clipsr.v1 for Node.js: the contract is read from proto/ at run time, nothing is generated.
//
// Copy this file, google/rpc and the repository's proto/clipsr into your project, and name the folder that holds clipsr/ in
// CLIPSR_PROTO unless it stays where it is here.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const includeDirs = [
  process.env.CLIPSR_PROTO ?? path.join(here, "..", "..", "..", "proto"),
  here, // google/rpc, which the contract imports
];

const contract = grpc.loadPackageDefinition(
  protoLoader.loadSync(["clipsr/v1/classifier.proto", "clipsr/v1/embedding.proto", "clipsr/v1/upscaler.proto"], {
    includeDirs,
    defaults: true, // a probability of 0 is there, too
    enums: String,
    longs: Number, // indices and sizes stay far below 2^53
    oneofs: true, // result.outcome names the field that is set
  }),
).clipsr.v1;

const rpc = new protobuf.Root();
rpc.resolvePath = (_origin, target) => path.join(here, target);
rpc.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

const CHANNEL_OPTIONS = {
  // All addresses behind a name get their share of the calls.
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  "grpc.max_send_message_length": -1, // GetModelInfo says what the service takes
  "grpc.max_receive_message_length": -1,
};

/** What the service refused, with everything that it said about it. */
export class ClipsrError extends Error {
  constructor(status, details) {
    super(details.sentence);
    this.name = "ClipsrError";
    /** Name of the gRPC status code, such as "INVALID_ARGUMENT". */
    this.code = grpc.status[status] ?? `CODE_${status}`;
    /** For programs, such as "LABEL_DUPLICATE"; docs/errors.md lists them. */
    this.reason = details.reason;
    /** [{field, description}] of what is wrong, such as "options.label_space.labels[1]". */
    this.violations = details.violations;
    /** How long the service asks to wait, in seconds; null if it does not say. */
    this.retryAfterS = details.retryAfterS;
  }
}

/**
 * Connects to a service.
 *
 * @param {string} url HOST:PORT of the gateway.
 * @param {{ca?: string, cert?: string, key?: string, apiKey?: string}} access PEM files: ca switches TLS on, cert and key
 *   are the client's own; apiKey is sent with every call.
 */
export async function connect(url, { ca, cert, key, apiKey } = {}) {
  const pem = await Promise.all([ca, key, cert].map((file) => file && readFile(file)));
  const credentials = ca ? grpc.credentials.createSsl(...pem) : grpc.credentials.createInsecure();
  const metadata = new grpc.Metadata();
  if (apiKey) metadata.set("authorization", `Bearer ${apiKey}`);
  const open = (Service) => new Service(url, credentials, CHANNEL_OPTIONS);
  return { classifier: open(contract.ClassifierService), embedder: open(contract.EmbeddingService), metadata };
}

export function close(service) {
  service.classifier.close();
  service.embedder.close();
}

/** Makes a call that has one answer; throws ClipsrError. */
function call(service, client, method, request, timeoutMs = 30_000) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + timeoutMs;
    client[method](request, service.metadata, { deadline }, (error, response) =>
      error ? reject(fromCall(error)) : resolve(response),
    );
  });
}

export async function modelInfo(service) {
  return (await call(service, service.classifier, "getModelInfo", {})).modelInfo;
}

/** Classifies one file. Returns {predictions, ...}, or throws ClipsrError, also where only this image is wrong. */
export async function classify(service, file, options) {
  const images = [{ content: await readFile(file) }];
  const { results } = await call(service, service.classifier, "classify", { images, options });
  return unwrap(results[0]);
}

/** Returns the embeddings of texts, arrays of numbers of length 1. */
export async function embedTexts(service, texts) {
  const { embeddings } = await call(service, service.embedder, "embedTexts", { texts });
  return embeddings.map((embedding) => embedding.values);
}

/**
 * Classifies any number of files over one call, and yields {file, classification} or {file, error} as answers come.
 *
 * At most `readAhead` files are in memory: read, and not yet answered.
 */
export async function* classifyStream(service, files, options, { readAhead = 64 } = {}) {
  const stream = service.classifier.classifyStream(service.metadata);
  const underWay = new Map(); // index → file
  let isOver = false;
  let failure = null;
  let wake = () => {};

  async function send() {
    stream.write({ options });
    let index = 0;
    for await (const file of files) {
      while (underWay.size >= readAhead && !isOver) {
        await new Promise((resolve) => {
          wake = resolve;
        });
      }
      if (isOver) return;
      underWay.set(index, file);
      stream.write({ image: { index, image: { content: await readFile(file) } } });
      index += 1;
    }
    stream.end();
  }

  const sending = send().catch((error) => {
    failure = error; // a file that cannot be read
    stream.cancel();
  });
  try {
    for await (const { index, result } of stream) {
      const file = underWay.get(index);
      underWay.delete(index);
      wake();
      try {
        yield { file, classification: unwrap(result) };
      } catch (error) {
        if (!(error instanceof ClipsrError)) throw error;
        yield { file, error };
      }
    }
    await sending;
  } catch (error) {
    throw failure ?? fromCall(error);
  } finally {
    isOver = true;
    wake();
    stream.cancel();
  }
}

function unwrap(result) {
  if (result.outcome === "error") throw new ClipsrError(result.error.code, read(result.error));
  return result.classification;
}

/** Turns what a call failed with into a ClipsrError. */
function fromCall(error) {
  if (error instanceof ClipsrError || error.code === undefined) return error;
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const status = packed ? rpc.lookupType("google.rpc.Status").decode(packed) : { message: error.details, details: [] };
  return new ClipsrError(error.code, read(status));
}

/** Reads the google.rpc details of a status. */
function read(status) {
  const found = { sentence: status.message, reason: "", violations: [], retryAfterS: null };
  for (const any of status.details) {
    const name = (any.typeUrl ?? any.type_url).split("/").pop();
    const decode = () => rpc.lookupType(name).decode(any.value);
    if (name === "google.rpc.ErrorInfo") found.reason = decode().reason;
    if (name === "google.rpc.BadRequest") found.violations = decode().fieldViolations;
    if (name === "google.rpc.RetryInfo") {
      const { seconds, nanos } = decode().retryDelay;
      found.retryAfterS = Number(seconds) + nanos / 1e9;
    }
  }
  return found;
}
