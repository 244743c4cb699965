/** Label maps as plain arrays, axes running to the right, to the front and to the head. */

export interface Grid {
  labels: Uint8Array;
  /** Voxels along each axis, the first one the fastest. */
  shape: [number, number, number];
  /** Millimetres between voxels. */
  spacing: [number, number, number];
  /** Voxels of the image that one step along each axis stands for. */
  every: [number, number, number];
}

/** A box of voxels, half open. */
export interface Box {
  low: [number, number, number];
  high: [number, number, number];
}

/** How a stored image maps to those axes: offset of the first voxel, and steps along each axis. */
export interface Stored {
  voxels: ArrayLike<number>;
  start: number;
  step: [number, number, number];
  shape: [number, number, number];
  spacing: [number, number, number];
}

/** Every nth voxel of a box of the image, so that no edge is longer than `edge`. */
export function coarser(
  image: Stored,
  edge: number,
  box: Box = { low: [0, 0, 0], high: image.shape },
): Grid {
  const { low, high } = box;
  const every = three((axis) => Math.ceil((high[axis]! - low[axis]!) / edge));
  const shape = three((axis) => Math.ceil((high[axis]! - low[axis]!) / every[axis]!));
  const [dx, dy, dz] = three((axis) => image.step[axis]! * every[axis]!);
  const start = low.reduce((sum, n, axis) => sum + n * image.step[axis]!, image.start);
  const labels = new Uint8Array(shape[0] * shape[1] * shape[2]);
  let to = 0;
  for (let z = 0; z < shape[2]; z++) {
    for (let y = 0; y < shape[1]; y++) {
      let from = start + y * dy + z * dz;
      for (let x = 0; x < shape[0]; x++, from += dx) labels[to++] = image.voxels[from]!;
    }
  }
  return { labels, shape, spacing: three((axis) => image.spacing[axis]! * every[axis]!), every };
}

/** The box of the image with all that a grid of it shows, and one step around; null when empty. */
export function occupied(grid: Grid, image: Stored): Box | null {
  const low = three(() => Infinity);
  const high = three(() => -1);
  const [nx, ny] = grid.shape;
  grid.labels.forEach((value, index) => {
    if (!value) return;
    const at = [index % nx, Math.floor(index / nx) % ny, Math.floor(index / (nx * ny))];
    for (let axis = 0; axis < 3; axis++) {
      low[axis] = Math.min(low[axis]!, at[axis]!);
      high[axis] = Math.max(high[axis]!, at[axis]!);
    }
  });
  if (high[0] < 0) return null;
  return {
    low: three((axis) => Math.max(0, (low[axis]! - 1) * grid.every[axis]!)),
    high: three((axis) => Math.min(image.shape[axis]!, (high[axis]! + 2) * grid.every[axis]!)),
  };
}

/**
 * Where along each axis, 0 to 1, the slice lies that shows most of the given label values.
 *
 * Every value counts by the root of its share of its own largest slice, as in preview.png.
 */
export function busiest(grid: Grid, values: readonly number[]): [number, number, number] | null {
  const counts = new Map(values.map((value) => [value, grid.shape.map((n) => new Float64Array(n))]));
  let at = 0;
  for (let z = 0; z < grid.shape[2]; z++) {
    for (let y = 0; y < grid.shape[1]; y++) {
      for (let x = 0; x < grid.shape[0]; x++) {
        const value = grid.labels[at++]!;
        const along = value ? counts.get(value) : undefined;
        if (!along) continue;
        along[0]![x]! += 1;
        along[1]![y]! += 1;
        along[2]![z]! += 1;
      }
    }
  }
  const found = [...counts.values()].filter((along) => along[0]!.some((count) => count > 0));
  if (!found.length) return null;
  return grid.shape.map((n, axis) => {
    const score = new Float64Array(n);
    for (const along of found) {
      const most = Math.max(...along[axis]!);
      along[axis]!.forEach((count, index) => (score[index]! += Math.sqrt(count / most)));
    }
    return (score.indexOf(Math.max(...score)) + 0.5) / n;
  }) as [number, number, number];
}

function three(of: (axis: number) => number): [number, number, number] {
  return [of(0), of(1), of(2)];
}
