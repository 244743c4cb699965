/** The page's elements: found by id, or made. Text is only ever set as text. */

type Child = Node | string;

/** The element with an id that index.html has. */
export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found as T;
}

/** A new element with properties and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Sets a colour swatch; style attributes would be refused by the page's content policy. */
export function swatch(colour: readonly [number, number, number]): HTMLElement {
  const made = make("span", { className: "swatch" });
  made.style.backgroundColor = `rgb(${colour.join(" ")})`;
  return made;
}

/** A row of radio buttons that looks like one control; answers arrow keys as radios do. */
export function choice(
  host: HTMLElement,
  name: string,
  words: readonly string[],
  chosen: (index: number) => void,
): (index: number) => void {
  const inputs = words.map((word, index) => {
    const input = make("input", { type: "radio", name, value: word });
    input.addEventListener("change", () => chosen(index));
    host.append(make("label", {}, input, make("span", {}, word)));
    return input;
  });
  return (index) => {
    const input = inputs[index];
    if (!input) return;
    input.checked = true;
    chosen(index);
  };
}

/** A tick that looks like a chip. */
export function chip(word: string, value: string, checked: boolean, title = ""): HTMLLabelElement {
  const input = make("input", { type: "checkbox", value, checked });
  return make("label", { className: "chip", title }, input, make("span", {}, word));
}

/** Values of the ticked chips that are not disabled. */
export function ticked(host: HTMLElement): string[] {
  const inputs = host.querySelectorAll<HTMLInputElement>("input:checked:not(:disabled)");
  return Array.from(inputs, (input) => input.value);
}

/** A name as people read it. */
export const words = (name: string): string => name.replaceAll("_", " ");

/** Bytes as people read them. */
export function size(bytes: number): string {
  if (bytes < 1e3) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** Seconds as people read them. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}
