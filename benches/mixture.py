"""Files that are half noise and half text, as layers with compressed and other files are: `mixture.py SEED COUNT DIRECTORY`
writes them.

Runs inside an image, too, and needs nothing but Python's standard library. The same bytes for the same seed everywhere.
"""

import pathlib
import random
import sys

HALF = 100 * 1024  # bytes of noise, and of text, in each file
POOL = 1 << 20
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


def pool() -> bytes:
    """Text of words that occur as words do: few often, many seldom."""
    chance = random.Random(11)
    words = [bytes(chance.choices(LETTERS, k=chance.randint(2, 11))) for _ in range(5000)]
    weights = [1 / (place + 5) for place in range(len(words))]
    text = b" ".join(chance.choices(words, weights, k=POOL // 6))
    return text[:POOL]


def contents(seed: int, count: int):
    """Name and content of each file. No two have much in common: each text has an alphabet of its own."""
    text = pool()
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        noise = chance.randbytes(HALF)
        alphabet = bytes.maketrans(LETTERS, bytes(chance.sample(LETTERS, len(LETTERS))))
        start = chance.randrange(POOL - HALF)
        yield f"f{number:05d}", noise + text[start : start + HALF].translate(alphabet)


def main() -> None:
    seed, count, directory = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents(seed, count):
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
