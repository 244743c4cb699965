/** What is asked for: the CT, the model, the structures, the files. */

import { Refused } from "./api";
import type { Labels, ModelVersion, Models } from "./api";
import { dropped, toBody, toCt } from "./ct";
import type { Ct } from "./ct";
import { byId, chip, make, size, ticked, words } from "./dom";

interface Output {
  name: string;
  word: string;
  title: string;
}

/** One of the series that a refusal lists. */
interface Series {
  series: string;
  series_number: number | null;
  slices: number;
  slice_spacing_mm: number | null;
}

// What refers to the headers of a CT that came as DICOM.
const DICOM_OUTPUTS: readonly Output[] = [
  { name: "seg", word: "DICOM SEG", title: "Binary segmentation object" },
  { name: "rtstruct", word: "RTSTRUCT", title: "Contours" },
  { name: "sr", word: "DICOM SR", title: "Volumes as a structured report" },
];
// The pictures are drawn from these.
const ALWAYS = ["nifti", "ct"];

export class Ask {
  private ct: Ct | null = null;
  private models: ModelVersion[] = [];
  private working = false;
  private readonly model = byId<HTMLSelectElement>("model");
  private readonly structures = byId("structures");
  private readonly outputs = byId("outputs");
  private readonly series = byId<HTMLSelectElement>("series");
  private readonly send = byId<HTMLButtonElement>("send");

  /**
   * @param labels the structures there are
   * @param chose told of a CT that was dropped or chosen
   * @param sent told when the form is sent
   */
  constructor(
    private readonly labels: Labels,
    private readonly chose: (ct: Ct) => void,
    sent: () => void,
  ) {
    for (const { word, name, title } of DICOM_OUTPUTS) {
      this.outputs.append(chip(word, name, false, title));
    }
    this.model.addEventListener("change", () => this.offerStructures());
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      sent();
    });
    this.listen();
    this.refresh();
  }

  /** Fills the choice of models; the service's default one is chosen. */
  offer(found: Models): void {
    for (const { name, aliases, versions } of found.models) {
      const usable = versions.filter((version) => !version.error);
      const named = new Map(Object.entries(aliases).map(([alias, v]) => [v, alias] as const));
      for (const version of usable) {
        const alias = named.get(version.version);
        const words = `${name} ${version.version}${alias ? ` (${alias})` : ""}`;
        this.model.append(make("option", { value: version.reference }, words));
        this.models.push(version);
        const isDefault = [name, `${name}@${alias}`, version.reference].includes(found.default);
        if (isDefault && (alias === "live" || found.default !== name)) {
          this.model.value = version.reference;
        }
      }
    }
    this.offerStructures();
    this.refresh();
  }

  body(): Blob | FormData {
    if (!this.ct) throw new Error("Drop a CT first.");
    return toBody(this.ct);
  }

  query(): URLSearchParams {
    const query = new URLSearchParams({ model: this.model.value });
    const structures = ticked(this.structures);
    if (structures.length) query.set("structures", structures.join(","));
    query.set("outputs", [...ALWAYS, ...ticked(this.outputs)].join(","));
    if (!this.series.parentElement!.hidden) query.set("series", this.series.value);
    return query;
  }

  /** The chosen CT's own file, where the browser can draw it. */
  localCt(): Blob | null {
    return this.ct?.kind === "nifti" ? this.ct.files[0]! : null;
  }

  busy(on: boolean): void {
    this.working = on;
    this.refresh();
  }

  /** Learns from a refusal: where the CT holds several series, they are offered. */
  learn(problem: unknown): void {
    if (!(problem instanceof Refused) || problem.failure.code !== "several_series") return;
    const found = problem.failure.details.series as Series[];
    this.series.replaceChildren(
      ...found.map((one) => {
        const gap = one.slice_spacing_mm === null ? "" : `, ${one.slice_spacing_mm} mm`;
        const said = `Series ${one.series_number ?? "?"}: ${one.slices} slices${gap}`;
        return make("option", { value: one.series, title: one.series }, said);
      }),
    );
    this.series.parentElement!.hidden = false;
  }

  private offerStructures(): void {
    const chosen = this.models.find((version) => version.reference === this.model.value);
    const masks = chosen?.masks ?? [];
    const colours = new Map(this.labels.structures.map((s) => [s.name, s.colour]));
    this.structures.replaceChildren(
      ...masks.map((mask) => {
        const made = chip(words(mask), mask, this.labels.default_masks.includes(mask));
        const colour = colours.get(mask);
        if (colour) made.style.setProperty("--colour", `rgb(${colour.join(" ")})`);
        return made;
      }),
    );
    byId("model-hint").textContent = chosen?.manifest?.intended_use ?? "";
  }

  private listen(): void {
    for (const [button, input] of [
      ["choose-files", "files"],
      ["choose-folder", "folder"],
    ] as const) {
      const field = byId<HTMLInputElement>(input);
      byId(button).addEventListener("click", () => field.click());
      field.addEventListener("change", () => {
        void this.take(Array.from(field.files ?? []));
        field.value = "";
      });
    }
    const drop = byId("drop");
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) drop.classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer) void dropped(event.dataTransfer).then((files) => this.take(files));
    });
  }

  private async take(files: File[]): Promise<void> {
    const ct = await toCt(files);
    if (!ct) return;
    this.ct = ct;
    this.series.parentElement!.hidden = true;
    const one = ct.files.length === 1;
    byId("chosen").textContent = one ? ct.files[0]!.name : `${ct.files.length} files`;
    const kinds = { nifti: "NIfTI", dicom: "DICOM", zip: "zip" };
    byId("chosen-hint").textContent = `${kinds[ct.kind]}, ${size(ct.bytes)}`;
    this.refresh();
    this.chose(ct);
  }

  private refresh(): void {
    this.send.disabled = this.working || !this.ct || !this.models.length;
    // A NIfTI has no DICOM headers to refer to; a zip may.
    const noDicom = this.ct?.kind === "nifti";
    for (const input of this.outputs.querySelectorAll("input")) input.disabled = noDicom;
  }
}
