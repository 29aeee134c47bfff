"""Retrieval by BM25, a re-ranker in the dspy process, and a native answer.

`python examples/rag/rag.py "When does a worker lose its lease?"` runs on the embedded
model; `--lm openai:gpt-4o-mini` on another. Needs `pip install bm25s`.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import trio

from dspex import Module, Program, open_runtime
from dspex.worker.models import read_lm

FOLDER = Path(__file__).parent
# Any: it ships no types.
bm25s: Any = importlib.import_module("bm25s")


class Find(Module):
    """Give the passages that have the words of a question."""

    def __init__(self) -> None:
        text = (FOLDER / "passages.txt").read_text(encoding="utf-8")
        self.passages = text.splitlines()
        self.index = bm25s.BM25()
        self.index.index(
            bm25s.tokenize(self.passages, show_progress=False), show_progress=False
        )

    async def forward(self, question: str) -> dict[str, object]:
        words = bm25s.tokenize(question, show_progress=False)
        found, _ = self.index.retrieve(
            words, corpus=self.passages, k=4, show_progress=False
        )
        return {"passages": [str(passage) for passage in found[0]]}


async def main(question: str, lm: str, base_url: str | None) -> None:
    program = Program.load(FOLDER / "program.yaml")
    model = read_lm(lm, base_url=base_url, timeout=60)
    async with open_runtime(model, modules={"Find": Find}) as rt:
        run = await rt.run(program, question=question)
        for record in run.steps:
            print(f"{record.name} ({record.backend}): {record.seconds:.1f} s")
        print(run.outputs["answer"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("question")
    parser.add_argument("--lm", default="embedded")
    parser.add_argument("--base-url", default=None)
    given = parser.parse_args()
    trio.run(main, given.question, given.lm, given.base_url)
