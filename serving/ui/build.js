// Bundles the page into built/: index.html, and a script and a style sheet named by their hash, so
// that a browser may keep them for ever.
import { readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const built = here("built");

await rm(built, { recursive: true, force: true });
const { metafile } = await build({
  entryPoints: [here("src/main.ts"), here("src/style.css")],
  outdir: built,
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  metafile: true,
  absWorkingDir: here("."),
});

await writeFile(`${built}/licences.txt`, await licences(Object.keys(metafile.inputs)));

const made = Object.keys(metafile.outputs).map((path) => basename(path));
const named = (start, end) => made.find((name) => name.startsWith(start) && name.endsWith(end));
const html = (await readFile(here("index.html"), "utf8"))
  .replace("src/style.css", `ui/${named("style-", ".css")}`)
  .replace("src/main.ts", `ui/${named("main-", ".js")}`);
// Last: who finds index.html finds everything it names.
await writeFile(`${built}/index.html`, html);

// Name, version, licence and licence text of every package in the bundle.
async function licences(inputs) {
  const found = inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  const texts = [...new Set(found.filter(Boolean))].sort().map(async (name) => {
    const folder = here(`node_modules/${name}`);
    const { version, license, author } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? await readFile(`${folder}/${file}`, "utf8") : "";
    return `${name} ${version}, ${license}, ${author?.name ?? author ?? ""}\n\n${text}`;
  });
  return (await Promise.all(texts)).join(`\n${"-".repeat(72)}\n`);
}
