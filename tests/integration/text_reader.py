"""Puts the text of steps together, as whoever follows a run does."""

from dspex.worker.run_record import RunEvent


class TextReader:
    """Follows the rule of docs/programs.md, and checks that no piece is missing."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, int | None, str], str] = {}
        self.attempts: dict[tuple[str, int | None], list[int]] = {}
        self.dropped: list[str] = []
        self.pieces = 0

    def read(self, event: RunEvent) -> None:
        """Take an event; one that has no text is passed by."""
        if event.kind == "delta":
            self.take(**event.data)

    def take(
        self,
        *,
        step: str,
        field: str,
        text: str,
        offset: int,
        attempt: int,
        item: int | None = None,
    ) -> None:
        """Take a piece."""
        self.pieces += 1
        attempts = self.attempts.setdefault((step, item), [])
        if attempt not in attempts:
            attempts.append(attempt)
            for key in [it for it in self.texts if it[:2] == (step, item)]:
                self.dropped.append(self.texts.pop(key))
        known = self.texts.get((step, item, field), "")
        assert offset == len(known)
        self.texts[step, item, field] = known + text
