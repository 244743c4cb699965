/** The pictures: a CT in three planes with its label map, and what was found in three dimensions. */

import { DRAG_MODE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import type { Structure } from "./api";
import { busiest, coarser, occupied } from "./grid";
import type { Grid, Stored } from "./grid";

export const VIEWS = ["All", "Axial", "Coronal", "Sagittal", "3D"] as const;
export const WINDOWS = ["Soft tissue", "Pancreas", "Lung", "Bone"] as const;
export const AXES = ["Axial", "Coronal", "Sagittal"] as const;

// Lowest and highest Hounsfield unit of each window.
const RANGES: readonly (readonly [number, number])[] = [
  [-150, 250],
  [-20, 180],
  [-1350, 150],
  [-450, 1050],
];
const PLANES = [SLICE_TYPE.AXIAL, SLICE_TYPE.CORONAL, SLICE_TYPE.SAGITTAL];
// Along which axis (left-right, back-front, feet-head) each plane's slices lie.
const ACROSS = [2, 1, 0] as const;
const PAPER = [0.035, 0.04, 0.047, 1];
// Thinner lines fall between the pixels of a small plane.
const CROSSHAIR_MM = 1.4;
// As many voxels along an edge as a 3D picture of this size can show.
const SOLID_EDGE = 160;
// Seen from the front, a little from above.
const TURN = { azimuth: 160, elevation: 12 };

/** Where the crosshair is. */
export interface Place {
  /** Slice of each of AXES, from 0: from the feet, from the back, from the left. */
  slices: [number, number, number];
  /** Millimetres towards the patient's left, back and head. */
  lps: [number, number, number];
  hu: number | null;
  structure: Structure | null;
}

export class Viewer {
  private readonly planes: Niivue;
  private readonly solid: Niivue;
  private structures: Structure[] = [];
  private hidden = new Set<string>();
  private opacity = 0.45;
  private range = RANGES[0]!;
  private redrawing = 0;
  private stale = Infinity;
  private shown: Blob | null = null;

  private constructor(
    private readonly stage: HTMLElement,
    moved: (place: Place) => void,
  ) {
    const shared = {
      backColor: PAPER,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error" as const,
      show3Dcrosshair: false,
    };
    this.planes = new Niivue({
      ...shared,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      crosshairColor: [0.42, 0.47, 0.54, 1],
      crosshairWidth: CROSSHAIR_MM,
      crosshairWidthUnit: "mm",
      crosshairGap: 12,
      fontColor: [0.62, 0.65, 0.7, 1],
      mouseEventConfig: {
        leftButton: {
          primary: DRAG_MODE.crosshair,
          withShift: DRAG_MODE.pan,
          withCtrl: DRAG_MODE.measurement,
        },
        rightButton: DRAG_MODE.windowing,
        centerButton: DRAG_MODE.pan,
      },
    });
    this.planes.onLocationChange = () => {
      const place = this.place();
      if (place) moved(place);
    };
    this.solid = new Niivue({ ...shared, sliceType: SLICE_TYPE.RENDER, crosshairWidth: 0 });
  }

  static async on(
    stage: HTMLElement,
    planes: HTMLCanvasElement,
    solid: HTMLCanvasElement,
    moved: (place: Place) => void,
  ): Promise<Viewer> {
    const viewer = new Viewer(stage, moved);
    await viewer.planes.attachToCanvas(planes);
    await viewer.solid.attachToCanvas(solid);
    await viewer.solid.setVolumeRenderIllumination(0.55);
    viewer.view(0);
    planes.addEventListener("keydown", (event) => viewer.key(event));
    new ResizeObserver(() => viewer.fit()).observe(stage);
    return viewer;
  }

  /** Slices of each of AXES; null without a CT. */
  get counts(): [number, number, number] | null {
    const dims = this.planes.volumes[0]?.dimsRAS;
    return dims ? [dims[3]!, dims[2]!, dims[1]!] : null;
  }

  /** Shows a CT; the one that is shown already, without its masks, stays. */
  async showCt(file: Blob): Promise<void> {
    if (this.shown === file && this.planes.volumes.length === 1) return;
    this.clear();
    const image = await load(file, "ct");
    image.colormap = "gray";
    [image.cal_min, image.cal_max] = this.range;
    this.planes.addVolume(image);
    this.shown = file;
    this.stage.classList.add("filled");
    this.planes.onLocationChange({});
  }

  /**
   * Lays a label map over the CT that is shown, builds its 3D picture, and goes to the slices that
   * show most.
   *
   * @param structures what may be in the label map
   * @param hidden names of those that are not shown at first
   */
  async showLabels(file: Blob, structures: Structure[], hidden: Iterable<string>): Promise<void> {
    const image = await load(file, "labels");
    this.structures = structures;
    this.hidden = new Set(hidden);
    image.setColormapLabel(this.colours());
    image.opacity = this.opacity;
    // Adding it as a volume would upload the CT a second time.
    this.planes.volumes.push(image);
    this.planes.overlays = [image];
    this.redraw(1);
    const voxels = stored(image);
    const grid = coarser(voxels, SOLID_EDGE);
    const box = occupied(grid, voxels);
    const small = await toImage(box ? coarser(voxels, SOLID_EDGE, box) : grid);
    small.setColormapLabel(this.colours());
    this.solid.addVolume(small);
    this.solid.setRenderAzimuthElevation(TURN.azimuth, TURN.elevation);
    const shown = structures.filter((s) => !this.hidden.has(s.name)).map((s) => s.value);
    const at = busiest(grid, shown);
    if (at) this.go(at);
  }

  clear(): void {
    for (const drawn of [this.planes, this.solid]) {
      while (drawn.volumes[0]) drawn.removeVolume(drawn.volumes[0]);
    }
    this.hidden.clear();
    this.shown = null;
    this.stage.classList.remove("filled");
  }

  /** One of VIEWS. */
  view(index: number): void {
    this.stage.dataset.view = VIEWS[index];
    if (index === 0) {
      this.planes.setSliceType(SLICE_TYPE.MULTIPLANAR);
      this.planes.setCustomLayout([
        { sliceType: SLICE_TYPE.AXIAL, position: [0, 0, 0.5, 0.5] },
        { sliceType: SLICE_TYPE.CORONAL, position: [0.5, 0, 0.5, 0.5] },
        { sliceType: SLICE_TYPE.SAGITTAL, position: [0, 0.5, 0.5, 0.5] },
      ]);
    } else if (index <= PLANES.length) {
      this.planes.clearCustomLayout();
      this.planes.setSliceType(PLANES[index - 1]!);
    }
    this.fit();
  }

  /** Fits both pictures to the place they have. */
  private fit(): void {
    this.planes.resizeListener();
    this.solid.resizeListener();
  }

  /** One of WINDOWS. */
  window(index: number): void {
    this.range = RANGES[index]!;
    const ct = this.planes.volumes[0];
    if (!ct) return;
    [ct.cal_min, ct.cal_max] = this.range;
    this.redraw(0);
  }

  /** How much of the masks covers the CT, 0 to 1. */
  setOpacity(part: number): void {
    this.opacity = part;
    const labels = this.planes.volumes[1];
    if (!labels) return;
    labels.opacity = part;
    this.redraw(1);
  }

  setCrosshair(on: boolean): void {
    this.planes.setCrosshairWidth(on ? CROSSHAIR_MM : 0);
  }

  /** Shows or hides a structure in every picture. */
  setShown(name: string, on: boolean): void {
    if (on) this.hidden.delete(name);
    else this.hidden.add(name);
    this.planes.volumes[1]?.setColormapLabel(this.colours());
    this.solid.volumes[0]?.setColormapLabel(this.colours());
    this.redraw(1);
    if (this.solid.volumes.length) this.solid.updateGLVolume();
  }

  /** Goes to a slice of one of AXES. */
  setSlice(axis: number, slice: number): void {
    const across = ACROSS[axis];
    const counts = this.counts;
    if (across === undefined || !counts) return;
    const inside = Math.min(Math.max(slice, 0), counts[axis]! - 1);
    const at = Array.from(this.planes.scene.crosshairPos);
    at[across] = (inside + 0.5) / counts[axis]!;
    this.go(at);
  }

  place(): Place | null {
    const ct = this.planes.volumes[0];
    const counts = this.counts;
    if (!ct || !counts) return null;
    const at = this.planes.scene.crosshairPos;
    const slices = ACROSS.map((across, axis) =>
      Math.min(counts[axis]! - 1, Math.max(0, Math.floor(at[across]! * counts[axis]!))),
    ) as [number, number, number];
    const mm = this.planes.frac2mm(at);
    const labels = this.planes.volumes[1];
    const value = labels ? valueAt(labels, mm) : 0;
    return {
      slices,
      lps: [-mm[0]!, -mm[1]!, mm[2]!],
      hu: valueAt(ct, mm),
      structure: this.structures.find((s) => s.value === value) ?? null,
    };
  }

  /** Arrow keys turn the slices of the plane that is shown; the axial ones where all are. */
  private key(event: KeyboardEvent): void {
    const steps: Record<string, number> = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    const step = steps[event.key];
    const place = this.place();
    if (!step || !place) return;
    event.preventDefault();
    const axis = Math.max(0, AXES.findIndex((name) => name === this.stage.dataset.view));
    this.setSlice(axis, place.slices[axis]! + step);
  }

  /** The colour table of the structures; hidden ones are transparent. */
  private colours() {
    const all = [{ name: "", value: 0, colour: [0, 0, 0] as const }, ...this.structures];
    const channel = (index: number) => all.map((s) => s.colour[index] ?? 0);
    return {
      R: channel(0),
      G: channel(1),
      B: channel(2),
      A: all.map((s) => (s.value === 0 || this.hidden.has(s.name) ? 0 : 255)),
      I: all.map((s) => s.value),
      labels: all.map((s) => s.name),
    };
  }

  /** Moves the crosshair to fractions of the image's axes (right, front, head). */
  private go(at: ArrayLike<number>): void {
    for (let axis = 0; axis < 3; axis++) this.planes.scene.crosshairPos[axis] = at[axis]!;
    this.planes.drawScene();
    this.planes.onLocationChange({});
  }

  /** Draws the CT (0) or the masks (1) anew, once a frame, however often a slider moves. */
  private redraw(layer: 0 | 1): void {
    this.stale = Math.min(this.stale, layer);
    cancelAnimationFrame(this.redrawing);
    this.redrawing = requestAnimationFrame(() => {
      // The CT costs far more to upload than the masks.
      if (this.stale === 0 || !this.planes.volumes[1]) this.planes.updateGLVolume();
      else {
        this.planes.refreshLayers(this.planes.volumes[1], 1);
        this.planes.drawScene();
      }
      this.stale = Infinity;
    });
  }
}

/** A NIfTI file in memory; its name must say whether it is compressed. */
async function load(file: Blob, name: string): Promise<NVImage> {
  const [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const ending = first === 0x1f && second === 0x8b ? "nii.gz" : "nii";
  return NVImage.loadFromFile({ file: new File([file], `${name}.${ending}`), name: `${name}.${ending}` });
}

/** How the voxels of an image are stored. */
function stored(image: NVImage): Stored {
  const three = (found: number[] | undefined, from: number) =>
    found!.slice(from, from + 3) as Grid["shape"];
  const [start, step] = [image.img2RASstart!, three(image.img2RASstep, 0)];
  return {
    voxels: image.img!,
    start: start[0]! + start[1]! + start[2]!,
    step,
    shape: three(image.dimsRAS, 1),
    spacing: three(image.pixDimsRAS, 1),
  };
}

/** A grid as an image whose middle is the origin. */
async function toImage(grid: Grid): Promise<NVImage> {
  const [x, y, z] = grid.spacing;
  const [a, b, c] = grid.shape.map((n, axis) => (-(n - 1) / 2) * grid.spacing[axis]!);
  const affine = [x, 0, 0, a!, 0, y, 0, b!, 0, 0, z, c!, 0, 0, 0, 1];
  const bytes = NVImage.createNiftiArray(grid.shape, grid.spacing, affine, 2, grid.labels);
  return load(new Blob([new Uint8Array(bytes)]), "solid");
}

function valueAt(image: NVImage, mm: ArrayLike<number>): number | null {
  const [x, y, z] = image.mm2vox(Array.from(mm).slice(0, 3)) as unknown as number[];
  const value = image.getValue(x!, y!, z!);
  return Number.isFinite(value) ? value : null;
}
