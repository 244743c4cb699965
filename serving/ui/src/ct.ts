/** From what was dropped or chosen to the body of a request. */

export type Kind = "nifti" | "dicom" | "zip";

export interface Ct {
  kind: Kind;
  files: File[];
  bytes: number;
}

const ZIP = [0x50, 0x4b];
const GZIP = [0x1f, 0x8b];
// "DICM" follows a preamble of 128 bytes; files without either are left to the service to judge.
const NIFTI_MAGIC_AT = 344;

/** What was chosen, told by content where it is one file. Hidden files are left out. */
export async function toCt(files: readonly File[]): Promise<Ct | null> {
  const seen = files.filter((file) => !file.name.startsWith(".") && file.size > 0);
  const first = seen[0];
  if (!first) return null;
  const bytes = seen.reduce((sum, file) => sum + file.size, 0);
  const kind = seen.length === 1 ? await kindOf(first) : "dicom";
  return { kind, files: seen, bytes };
}

/** The CT as a body; several files as a form, under numbers: their names may be a patient's. */
export function toBody(ct: Ct): Blob | FormData {
  if (ct.files.length === 1) return ct.files[0]!;
  const form = new FormData();
  ct.files.forEach((file, index) => form.append("ct", file, String(index + 1)));
  return form;
}

/** Every file of a drop, folders walked through. */
export async function dropped(data: DataTransfer): Promise<File[]> {
  // Entries must be taken before the first await: the list is emptied after the event.
  const entries = Array.from(data.items)
    .map((item) => item.webkitGetAsEntry())
    .filter((entry) => entry !== null);
  if (!entries.length) return Array.from(data.files);
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile) {
    return [await new Promise<File>((ok, no) => (entry as FileSystemFileEntry).file(ok, no))];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const inside: FileSystemEntry[] = [];
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const some = await new Promise<FileSystemEntry[]>((ok, no) => reader.readEntries(ok, no));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(walk))).flat();
}

async function kindOf(file: File): Promise<Kind> {
  const head = new Uint8Array(await file.slice(0, 352).arrayBuffer());
  const starts = (magic: number[]) => magic.every((byte, index) => head[index] === byte);
  if (starts(ZIP)) return "zip";
  if (starts(GZIP)) return "nifti";
  const magic = String.fromCharCode(...head.slice(NIFTI_MAGIC_AT, NIFTI_MAGIC_AT + 2));
  const second = String.fromCharCode(...head.slice(4, 6));
  return magic === "n+" || second === "n+" ? "nifti" : "dicom";
}
