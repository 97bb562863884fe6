// Bundles the page: node build.mjs [--out FOLDER]. The result depends on the sources only.
import { build } from "esbuild";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const at = process.argv.indexOf("--out");
const out = at > 0 ? process.argv[at + 1] : join(here, "dist");

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "assets"), { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: {
    main: "src/main.tsx",
    layout: "src/graph/layout.worker.ts",
  },
  outdir: join(out, "assets"),
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  // The licences file has all of them, also of packages without such comments.
  legalComments: "none",
  logLevel: "warning",
  metafile: true,
});
await copyFile(join(here, "index.html"), join(out, "index.html"));
await writeFile(join(out, "assets", "licenses.txt"), await licenses(metafile));

/** Returns the licences of the packages whose code is in the bundle. */
async function licenses({ outputs }) {
  const packages = new Set();
  for (const { inputs } of Object.values(outputs)) {
    for (const [path, { bytesInOutput }] of Object.entries(inputs)) {
      const match = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
      if (match && bytesInOutput > 0) packages.add(match[1]);
    }
  }
  const texts = [];
  for (const name of [...packages].sort()) {
    const folder = join(here, "node_modules", name);
    const { version } = JSON.parse(
      await readFile(join(folder, "package.json"), "utf8"),
    );
    const file = (await readdir(folder)).find((each) => /^licen[cs]e/i.test(each));
    if (!file) throw new Error(`${name} has no licence file`);
    const text = await readFile(join(folder, file), "utf8");
    texts.push(`${name} ${version}\n\n${text.trim()}\n`);
  }
  return texts.join(`\n${"-".repeat(72)}\n\n`);
}
