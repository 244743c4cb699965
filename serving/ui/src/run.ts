/** One job's way: sent, waiting, worked on, ended. */

import { Refused } from "./api";
import type { Api, Job } from "./api";
import { byId, duration } from "./dom";

const STEPS: Record<string, string> = {
  load: "Loading the model",
  read: "Reading the CT",
  preprocess: "Preparing the CT",
  network: "Looking for structures",
  postprocess: "Cleaning the masks",
  report: "Measuring",
  write: "Writing files",
};

export class Run {
  private readonly panel = byId("run");
  private readonly title = byId("run-title");
  private readonly detail = byId("run-detail");
  private readonly bar = byId<HTMLProgressElement>("run-bar");
  private readonly cancel = byId<HTMLButtonElement>("cancel");
  private stop = new AbortController();
  private job: Job | null = null;

  constructor(private readonly api: Api) {
    this.cancel.addEventListener("click", () => void this.end());
  }

  /** Sends a CT. */
  async send(body: Blob | FormData, query: URLSearchParams): Promise<Job> {
    this.begin();
    this.say("Sending the CT", "", 0);
    try {
      return await this.api.submit(
        body,
        query,
        (part) => this.say("Sending the CT", `${Math.round(part * 100)} %`, part),
        this.stop.signal,
      );
    } catch (error) {
      this.panel.hidden = true;
      throw error;
    }
  }

  /** Takes up a job that was sent before. */
  take(job: Job): Job {
    this.begin();
    return job;
  }

  /** Shows a job's progress until it ends; a job that failed throws its error. */
  async follow(job: Job): Promise<Job> {
    this.job = job;
    this.tell(job);
    const { stop } = this;
    try {
      const ended = await this.api.follow(job, (now) => this.tell(now), stop.signal);
      if (ended.error && ended.state === "failed") throw new Refused(0, ended.error);
      if (ended.state === "cancelled") throw new Error("The job was cancelled.");
      return ended;
    } finally {
      // Another job may have been taken up meanwhile; the panel is that one's.
      if (this.stop === stop) this.panel.hidden = true;
    }
  }

  private begin(): void {
    this.stop.abort();
    this.stop = new AbortController();
    this.job = null;
    this.cancel.disabled = false;
    this.panel.hidden = false;
  }

  private tell(job: Job): void {
    const left = job.eta_s === null ? "" : `about ${duration(job.eta_s)} left`;
    if (job.cancelling) this.say("Stopping", "", null);
    else if (job.state === "queued") {
      this.say("Waiting", [place(job.place), left].filter(Boolean).join(", "), null);
    } else if (job.state === "running") {
      const step = job.step ?? "";
      this.say(STEPS[step] ?? (step || "Starting"), left, step ? job.part : null);
    }
  }

  private say(title: string, detail: string, part: number | null): void {
    if (this.title.textContent !== title) this.title.textContent = title;
    this.detail.textContent = detail;
    if (part === null) this.bar.removeAttribute("value");
    else this.bar.value = part;
  }

  private async end(): Promise<void> {
    this.cancel.disabled = true;
    if (!this.job) {
      this.stop.abort();
      return;
    }
    await this.api.fetch(`v1/jobs/${this.job.id}`, { method: "DELETE" }).catch(() => {
      this.cancel.disabled = false;
    });
  }
}

function place(number: number | null): string {
  if (number === null) return "";
  return number === 1 ? "next in the queue" : `${number - 1} jobs go before`;
}
