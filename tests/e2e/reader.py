"""Reads a mount as a training script does, and compares each file with a local copy."""

import multiprocessing
import os
import random
import sys


def walk(root):
    """Every file under root, relative to it."""
    for directory, _, names in os.walk(root):
        for name in names:
            yield os.path.relpath(os.path.join(directory, name), root)


def differs(pair):
    """The pair's path if its two files differ."""
    mounted, local = pair
    with open(mounted, "rb") as one, open(local, "rb") as other:
        return None if one.read() == other.read() else mounted


def main(mount, local):
    files = sorted(walk(mount))
    if files != sorted(walk(local)):
        sys.exit("os.walk finds other files on the mount than in the local copy")
    with multiprocessing.Pool(4) as pool:
        for epoch in (1, 2):
            order = random.Random(epoch).sample(files, len(files))
            pairs = [(os.path.join(mount, name), os.path.join(local, name)) for name in order]
            wrong = [name for name in pool.imap_unordered(differs, pairs, chunksize=8) if name]
            if wrong:
                sys.exit(f"epoch {epoch}: {len(wrong)} files differ, first: {wrong[0]}")
    print(f"{len(files)} files, 2 epochs, equal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
