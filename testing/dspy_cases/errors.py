"""Errors of the conformance runner."""

from dspex.runtime.errors import DspexError


class CaseFileError(DspexError):
    """A file of cases or deviations cannot be used."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem
