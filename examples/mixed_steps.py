"""Plain Python steps of mixed.yaml."""


def compare(
    first: str, first_why: str, second: str, second_why: str
) -> dict[str, object]:
    """Put two answers together and say how much they agree, from 0 to 1."""
    longest = max(len(first), len(second), 1)
    return {
        "completions": [
            {"reasoning": first_why, "answer": first},
            {"reasoning": second_why, "answer": second},
        ],
        "agreement": 1 - _distance(first.lower(), second.lower()) / longest,
    }


def _distance(one: str, other: str) -> int:
    """How many letters must be put in, left out or changed."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, there in enumerate(other, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != there)),
            )
    return row[-1]
