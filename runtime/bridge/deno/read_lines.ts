// The lines of a reader of bytes, as `readLines` of Deno's old library gave them.
export async function* readLines(reader: { readable: ReadableStream<Uint8Array> }) {
  let rest = "";
  for await (const text of reader.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest) yield rest;
}
