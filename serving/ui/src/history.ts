/** The caller's recent jobs. */

import type { Api, Job } from "./api";
import { byId, make } from "./dom";

const SHOWN = 12;
const STATES: Record<Job["state"], string> = {
  queued: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
};

export class History {
  private readonly list = byId("jobs");

  constructor(
    private readonly api: Api,
    private readonly opened: (job: Job) => void,
    private readonly complain: (problem: unknown) => void,
  ) {}

  async refresh(): Promise<void> {
    const { jobs } = await this.api.get<{ jobs: Job[] }>(`v1/jobs?limit=${SHOWN}`);
    const rows = jobs.map((job) => this.row(job));
    this.list.replaceChildren(...(rows.length ? rows : [make("li", { className: "hint" }, "None yet.")]));
  }

  private row(job: Job): HTMLLIElement {
    const when = new Date(job.created).toLocaleTimeString([], { timeStyle: "short" });
    const open = make(
      "button",
      { type: "button", className: "row", title: job.error?.message ?? "Open" },
      make("span", { className: `state ${job.state}` }, STATES[job.state]),
      make("span", {}, job.model ?? job.kind),
      make("time", { dateTime: job.created }, when),
    );
    open.addEventListener("click", () => this.opened(job));
    const ended = ["done", "failed", "cancelled"].includes(job.state);
    const word = ended ? "Delete this job and its files" : "Cancel this job";
    const remove = make("button", { type: "button", className: "quiet", title: word }, "×");
    remove.setAttribute("aria-label", word);
    remove.addEventListener("click", () => {
      remove.disabled = true;
      this.api
        .fetch(`v1/jobs/${job.id}`, { method: "DELETE" })
        .then(() => this.refresh())
        .catch(this.complain);
    });
    return make("li", {}, open, remove);
  }
}
