// Packs a directory: pack.js KIND OUT DIRECTORY
import { createWriteStream } from "node:fs";
import { TarArchive, ZipArchive } from "archiver";

const [kind, out, directory] = process.argv.slice(2);
const archive = {
  zip: () => new ZipArchive(),
  "zip-best": () => new ZipArchive({ zlib: { level: 9 } }),
  "zip-store": () => new ZipArchive({ store: true }),
  "zip-64": () => new ZipArchive({ forceZip64: true }),
  tar: () => new TarArchive(),
  "tar-gzip": () => new TarArchive({ gzip: true }),
}[kind]();
archive.on("error", (error) => {
  throw error;
});
archive.pipe(createWriteStream(out));
archive.directory(directory, false);
await archive.finalize();
