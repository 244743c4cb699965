/** The service's HTTP interface, as far as the page needs it. */

export interface Described {
  voxels: number;
  volume_ml: number;
  touches_edge: string[];
}
export interface Report {
  model: { reference: string; sha256: string; intended_use: string };
  masks: Record<string, Described & { structures: string[]; not_looked_for: string[] }>;
  structures: Record<string, Described>;
  warnings: string[];
  device: string;
  seconds: Record<string, number>;
}
export interface JobFile {
  name: string;
  type: string;
  bytes: number;
  href: string;
}
export interface Failure {
  code: string;
  message: string;
  details: Record<string, unknown>;
}
export interface Job {
  id: string;
  kind: string;
  state: "queued" | "running" | "done" | "failed" | "cancelled";
  cancelling: boolean;
  place: number | null;
  step: string | null;
  part: number;
  eta_s: number | null;
  created: string;
  model: string | null;
  files: JobFile[];
  error: Failure | null;
  links: Record<string, string>;
}
export interface ModelVersion {
  version: number;
  reference: string;
  masks?: string[];
  manifest?: { intended_use?: string };
  error?: Failure;
}
export interface Models {
  default: string;
  models: { name: string; aliases: Record<string, number>; versions: ModelVersion[] }[];
}
export interface Structure {
  name: string;
  value: number;
  colour: [number, number, number];
}
export interface Labels {
  structures: Structure[];
  default_masks: string[];
}

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly failure: Failure,
  ) {
    super(failure.message);
  }
}

const KEY = "islet.token";
const BASE = new URL(".", document.baseURI);

/** Asks whoever sits there for a token; null when there is none to give. */
export type AskToken = (why: string) => Promise<string | null>;

export class Api {
  constructor(private readonly askToken: AskToken) {}

  get token(): string | null {
    return sessionStorage.getItem(KEY);
  }

  set token(value: string | null) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  }

  /** What a path of the page's own says; it needs no token. */
  async labels(): Promise<Labels> {
    return (await answered(await fetch(new URL("ui/structures.json", BASE)))).json();
  }

  async get<T>(path: string): Promise<T> {
    return (await this.fetch(path)).json() as Promise<T>;
  }

  /** An answer that is a success; asks for a token where one is needed. */
  async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    for (;;) {
      const response = await reach(new URL(path, BASE), { ...init, headers: this.headers() });
      if (response.status !== 401) return answered(response);
      await this.renew(await refusal(response));
    }
  }

  /** A file of a result, with how much of it has come. */
  async file(file: JobFile, progress: (part: number) => void = () => {}): Promise<Blob> {
    const response = await this.fetch(file.href);
    if (!response.body) return response.blob();
    let got = 0;
    const count = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, out) {
        got += chunk.byteLength;
        progress(Math.min(1, got / file.bytes));
        out.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(count)).blob();
  }

  /**
   * Sends a CT and gets its job. A key that stays the same makes a second try harmless.
   *
   * XMLHttpRequest, because fetch does not tell how much of a body was sent.
   */
  async submit(
    body: Blob | FormData,
    query: URLSearchParams,
    progress: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Job> {
    const key = random();
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.post(`v1/jobs?${query}`, body, key, progress, signal);
      } catch (error) {
        if (error instanceof Refused && error.status === 401) await this.renew(error);
        else if (!(error instanceof Unreachable) || attempt >= 3) throw error;
        await sleep(attempt * 1000);
      }
    }
  }

  private post(
    path: string,
    body: Blob | FormData,
    key: string,
    progress: (part: number) => void,
    signal: AbortSignal,
  ): Promise<Job> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      signal.addEventListener("abort", () => request.abort(), { once: true });
      request.upload.onprogress = (event) => progress(event.loaded / Math.max(1, event.total));
      request.onerror = () => reject(new Unreachable());
      request.onabort = () => reject(new DOMException("Stopped.", "AbortError"));
      request.onload = () => {
        if (request.status < 300) resolve(JSON.parse(request.responseText) as Job);
        else reject(refused(request.status, request.responseText));
      };
      request.open("POST", new URL(path, BASE));
      new Headers(this.headers()).forEach((value, name) => request.setRequestHeader(name, value));
      request.setRequestHeader("Idempotency-Key", key);
      if (body instanceof Blob) {
        request.setRequestHeader("Content-Type", "application/octet-stream");
      }
      request.send(body);
    });
  }

  /**
   * Follows a job to its end through its events; a stream that breaks off is taken up again.
   *
   * EventSource cannot send a token, so the stream is read here.
   */
  async follow(job: Job, told: (job: Job) => void, signal: AbortSignal): Promise<Job> {
    let now = job;
    for (;;) {
      try {
        const response = await this.fetch(`v1/jobs/${job.id}/events`, { signal });
        for await (const event of events(response)) {
          const data = JSON.parse(event.data) as Job | { error: Failure };
          if (!("state" in data)) throw new Refused(404, data.error);
          now = data;
          told(now);
          if (event.name === "end") return now;
        }
      } catch (error) {
        if (signal.aborted || error instanceof Refused) throw error;
      }
      await sleep(1000);
    }
  }

  private headers(): Record<string, string> {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }

  private async renew(refusal: Refused): Promise<void> {
    const token = await this.askToken(refusal.message);
    if (!token) throw refusal;
    this.token = token;
  }
}

/** The service did not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The service does not answer; is it running, and the network up?");
  }
}

interface ServerEvent {
  name: string;
  data: string;
}

/** The events of a stream, as the HTML standard cuts them. */
export async function* events(response: Response): AsyncGenerator<ServerEvent> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    const blocks = (rest + decoder.decode(chunk, { stream: true })).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const fields = block.split("\n").filter((line) => !line.startsWith(":"));
      const of = (name: string) =>
        fields
          .filter((line) => line.startsWith(`${name}:`))
          .map((line) => line.slice(name.length + 1).replace(/^ /, ""));
      const data = of("data").join("\n");
      if (data) yield { name: of("event")[0] ?? "message", data };
    }
  }
}

async function reach(url: URL, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Unreachable();
  }
}

async function answered(response: Response): Promise<Response> {
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response: Response): Promise<Refused> {
  return refused(response.status, await response.text());
}

function refused(status: number, text: string): Refused {
  try {
    const failure = (JSON.parse(text) as { error: Failure }).error;
    if (failure.message) return new Refused(status, failure);
  } catch {
    // A proxy in between answers in a shape of its own.
  }
  const message = `The service answered with status ${status}; try again later.`;
  return new Refused(status, { code: "unknown", message, details: {} });
}

/** 128 random bits; crypto.randomUUID is missing where a page comes without TLS. */
function random(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
