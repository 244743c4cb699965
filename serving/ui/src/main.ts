/** Wires the page together: what is asked on the left, the pictures, what came of it. */

import { Api } from "./api";
import type { AskToken, Job } from "./api";
import { Ask } from "./ask";
import { byId, choice, make } from "./dom";
import { History } from "./history";
import { Result } from "./result";
import { Run } from "./run";
import { AXES, VIEWS, Viewer, WINDOWS } from "./viewer";
import type { Place } from "./viewer";

const error = byId("error");

function complain(problem: unknown): void {
  if (problem instanceof DOMException && problem.name === "AbortError") return;
  error.textContent = problem instanceof Error ? problem.message : String(problem);
  error.hidden = false;
}

/** Runs what an event starts; its failure is shown, and the last one's is taken away. */
function doing(work: () => Promise<void>): void {
  error.hidden = true;
  work().catch(complain);
}

/** Asks for a token, once at a time however many requests need it. */
function tokenDialog(): AskToken {
  const dialog = byId<HTMLDialogElement>("token-dialog");
  const value = byId<HTMLInputElement>("token-value");
  let asking: Promise<string | null> | null = null;
  return (why) => {
    byId("token-why").textContent = why;
    asking ??= new Promise<string | null>((resolve) => {
      value.value = "";
      dialog.returnValue = "";
      dialog.showModal();
      dialog.addEventListener(
        "close",
        () => resolve(dialog.returnValue === "use" ? value.value.trim() || null : null),
        { once: true },
      );
    }).finally(() => {
      asking = null;
    });
    return asking;
  };
}

/** The controls over and under the pictures. */
function controls(viewer: () => Viewer | null): (place: Place) => void {
  choice(byId("views"), "view", VIEWS, (index) => viewer()?.view(index))(0);
  choice(byId("windows"), "window", WINDOWS, (index) => viewer()?.window(index))(0);
  const on = (id: string, event: string, told: (input: HTMLInputElement) => void) => {
    const input = byId<HTMLInputElement>(id);
    input.addEventListener(event, () => told(input));
  };
  on("opacity", "input", (input) => viewer()?.setOpacity(Number(input.value) / 100));
  on("crosshair", "change", (input) => viewer()?.setCrosshair(input.checked));

  const slides = AXES.map((name, axis) => {
    const input = make("input", { type: "range", min: "1", max: "1", value: "1", disabled: true });
    const count = make("output", {}, "");
    input.addEventListener("input", () => viewer()?.setSlice(axis, Number(input.value) - 1));
    byId("slices").append(make("label", { className: "slide" }, name, input, count));
    return { input, count };
  });
  return (place) => {
    const counts = viewer()?.counts;
    slides.forEach(({ input, count }, axis) => {
      input.disabled = !counts;
      if (!counts) return;
      input.max = String(counts[axis]);
      input.value = String(place.slices[axis]! + 1);
      count.textContent = `${input.value} / ${input.max}`;
    });
    const [left, back, head] = place.lps.map((mm) => mm.toFixed(1));
    const hu = place.hu === null ? "" : `${Math.round(place.hu)} HU`;
    const found = place.structure ? place.structure.name.replaceAll("_", " ") : "";
    byId("place").textContent = `L ${left}  P ${back}  S ${head} mm   ${hu}   ${found}`;
  };
}

async function start(): Promise<void> {
  const askToken = tokenDialog();
  const api = new Api(askToken);
  let viewer: Viewer | null = null;
  const moved = controls(() => viewer);
  try {
    viewer = await Viewer.on(
      byId("stage"),
      byId<HTMLCanvasElement>("planes"),
      byId<HTMLCanvasElement>("solid"),
      moved,
    );
  } catch {
    byId("empty").textContent = "This browser has no WebGL 2; the preview picture is shown instead.";
  }

  const labels = await api.labels();
  const result = new Result(api, viewer, labels);
  const history = new History(api, (job) => doing(() => open(job)), complain);
  const ask = new Ask(labels, (ct) => doing(() => result.showCt(ct)), () => doing(send));
  const run = new Run(api);

  async function send(): Promise<void> {
    // What is chosen may change while the CT is on its way.
    const local = ask.localCt();
    await follow(async () => {
      const job = await run.send(ask.body(), ask.query());
      result.remember(job, local);
      await history.refresh();
      return job;
    });
  }
  async function open(job: Job): Promise<void> {
    await follow(async () => run.take(job));
  }
  let turns = 0;
  async function follow(begin: () => Promise<Job>): Promise<void> {
    const turn = ++turns;
    ask.busy(true);
    try {
      const job = await begin();
      const ended = await run.follow(job);
      if (ended.state === "done") await result.show(ended);
    } catch (problem) {
      ask.learn(problem);
      throw problem;
    } finally {
      // Another job may have been opened meanwhile.
      if (turn === turns) ask.busy(false);
      await history.refresh();
    }
  }

  byId("token").addEventListener("click", () =>
    doing(async () => {
      const token = await askToken("The operator of this service hands tokens out.");
      if (token === null) return;
      api.token = token;
      await history.refresh();
    }),
  );
  ask.offer(await api.get("v1/models"));
  await history.refresh();
}

start().catch(complain);
