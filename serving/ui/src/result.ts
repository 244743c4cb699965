/** What a job found: pictures, structures to switch, volumes, warnings, files. */

import type { Api, Described, Job, JobFile, Labels, Report, Structure } from "./api";
import type { Ct } from "./ct";
import { byId, make, size, swatch, words } from "./dom";
import type { Viewer } from "./viewer";

const SENTENCE = byId("empty");

export class Result {
  private readonly panel = byId("result");
  private readonly picture = byId<HTMLImageElement>("picture");
  // CTs that the browser has anyway, by job.
  private readonly local = new Map<string, Blob>();

  /**
   * @param viewer null where the browser cannot draw volumes
   */
  constructor(
    private readonly api: Api,
    private readonly viewer: Viewer | null,
    private readonly labels: Labels,
  ) {}

  /** Shows a CT that was chosen, where the browser can read it. */
  async showCt(ct: Ct): Promise<void> {
    this.panel.hidden = true;
    this.viewer?.clear();
    this.noPicture();
    if (ct.kind === "nifti") {
      // A file that no viewer reads may still be one that the service knows how to refuse.
      await this.viewer?.showCt(ct.files[0]!).catch(() => this.viewer?.clear());
    } else {
      SENTENCE.textContent = "The CT appears here once it is segmented.";
    }
  }

  remember(job: Job, ct: Blob | null): void {
    if (ct) this.local.set(job.id, ct);
  }

  /** Shows a job that is done. */
  async show(job: Job): Promise<void> {
    const files = new Map(job.files.map((file) => [file.name, file]));
    const report = (await this.read(files, "report.json", (blob) => blob.text())) ?? "{}";
    const found = JSON.parse(report) as Report;
    this.table(found);
    this.files(job);
    const structures = this.labels.structures.filter((s) => found.structures[s.name]?.voxels);
    const asked = new Set(Object.values(found.masks).flatMap((mask) => mask.structures));
    const hidden = structures.map((s) => s.name).filter((name) => !asked.has(name));
    this.legend(structures, found.structures, new Set(hidden));
    this.panel.hidden = false;
    await this.draw(job, files, structures, hidden);
  }

  private async draw(
    job: Job,
    files: Map<string, JobFile>,
    structures: Structure[],
    hidden: string[],
  ): Promise<void> {
    const masks = files.get("labels.nii.gz");
    const ct = this.local.get(job.id) ?? files.get("ct.nii.gz");
    if (!this.viewer || !masks || !ct) {
      this.viewer?.clear();
      await this.preview(files);
      return;
    }
    this.noPicture();
    const said = (part: number) => (SENTENCE.textContent = `Fetching, ${Math.round(part * 100)} %`);
    const [image, map] = await Promise.all([
      ct instanceof Blob ? ct : this.api.file(ct, said),
      this.api.file(masks),
    ]);
    await this.viewer.showCt(image);
    await this.viewer.showLabels(map, structures, hidden);
  }

  private async preview(files: Map<string, JobFile>): Promise<void> {
    const blob = await this.read(files, "preview.png", async (found) => found);
    if (!blob) return;
    this.noPicture();
    this.picture.src = URL.createObjectURL(blob);
    this.picture.hidden = false;
    SENTENCE.textContent = "";
  }

  private noPicture(): void {
    URL.revokeObjectURL(this.picture.src);
    this.picture.hidden = true;
  }

  private async read<T>(
    files: Map<string, JobFile>,
    name: string,
    as: (blob: Blob) => Promise<T>,
  ): Promise<T | null> {
    const file = files.get(name);
    return file ? as(await this.api.file(file)) : null;
  }

  private legend(
    structures: Structure[],
    found: Record<string, Described>,
    hidden: Set<string>,
  ): void {
    const rows = structures.map((structure) => {
      const input = make("input", { type: "checkbox", checked: !hidden.has(structure.name) });
      input.addEventListener("change", () => this.viewer?.setShown(structure.name, input.checked));
      const ml = found[structure.name]!.volume_ml.toFixed(1);
      return make(
        "li",
        {},
        make(
          "label",
          {},
          input,
          swatch(structure.colour),
          make("span", {}, words(structure.name)),
          make("span", { className: "number" }, `${ml} mL`),
        ),
      );
    });
    const none = make("li", { className: "hint" }, "None of the model's structures was found.");
    byId("legend").replaceChildren(...(rows.length ? rows : [none]));
  }

  private table(report: Report): void {
    const rows = Object.entries(report.masks).map(([name, mask]) => {
      const row = make(
        "tr",
        {},
        make("th", { scope: "row" }, words(name)),
        make("td", { className: "number" }, mask.volume_ml.toFixed(1)),
      );
      row.dataset.mask = name;
      return row;
    });
    byId("volumes").replaceChildren(...rows);
    const notes = Object.entries(report.masks).flatMap(([name, mask]) => remarks(name, mask));
    const warnings = [...report.warnings, ...notes];
    byId("warnings").replaceChildren(...warnings.map((text) => make("li", {}, text)));
    const { model, seconds, device } = report;
    byId("made-by").textContent =
      `${model.reference} (${model.sha256.slice(0, 12)}) on ${device}, ` +
      `${(seconds.total ?? 0).toFixed(1)} s. ${model.intended_use}`;
  }

  private files(job: Job): void {
    const all: JobFile = {
      name: `islet-${job.id.slice(0, 8)}.zip`,
      type: "application/zip",
      bytes: job.files.reduce((sum, file) => sum + file.bytes, 0),
      href: job.links.result ?? "",
    };
    const rows = [all, ...job.files].map((file, index) => {
      const word = index === 0 ? "Everything (zip)" : file.name;
      const button = make("button", { type: "button", className: "row" }, make("span", {}, word));
      button.append(make("span", { className: "number" }, size(file.bytes)));
      button.dataset.file = file.name;
      button.addEventListener("click", () => void this.save(file, button));
      return make("li", {}, button);
    });
    byId("downloads").replaceChildren(...rows);
  }

  /** A link cannot send a token, so the file is fetched, then saved. */
  private async save(file: JobFile, button: HTMLButtonElement): Promise<void> {
    button.disabled = true;
    const amount = button.lastElementChild!;
    try {
      const blob = await this.api.file(file, (part) => {
        amount.textContent = `${Math.round(part * 100)} %`;
      });
      const link = make("a", { href: URL.createObjectURL(blob), download: file.name });
      link.click();
      // The download has the bytes once the click is through.
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      amount.textContent = size(file.bytes);
    } catch (error) {
      amount.textContent = error instanceof Error ? error.message : "failed";
    } finally {
      button.disabled = false;
    }
  }
}

function remarks(name: string, mask: Report["masks"][string]): string[] {
  const said: string[] = [];
  if (mask.touches_edge.length) {
    said.push(`${words(name)} reaches the ${mask.touches_edge.join(", ")} edge: it may be cut off.`);
  }
  if (mask.not_looked_for.length) {
    said.push(`${words(name)}: not looked for: ${mask.not_looked_for.map(words).join(", ")}.`);
  }
  return said;
}
