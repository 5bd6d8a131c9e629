"""PaddlePaddle's DatasetFolder and DataLoader over a mount, beside the same over a local copy.

    epochs.py make DIRECTORY     draws a small tree of JPEGs
    epochs.py read MOUNT LOCAL   two shuffled epochs of both, every decoded batch compared
"""

import os
import sys
import time

import numpy
from PIL import Image

CLASSES, IMAGES, SIDE, BATCH, EPOCHS = 6, 50, 96, 16, 2


def make(root):
    """Noise over a gradient: no two images are alike, and none compresses to nothing."""
    dice = numpy.random.default_rng(1)
    for number in range(CLASSES):
        directory = os.path.join(root, f"class{number}")
        os.makedirs(directory)
        for image in range(IMAGES):
            pixels = dice.integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(os.path.join(directory, f"{image:04}.jpg"), quality=90)


def decode(path):
    """The pixels of a JPEG, as a transform of a training script would see them."""
    with open(path, "rb") as file:
        return numpy.asarray(Image.open(file).convert("RGB"))


def read(mount, local):
    """Both data sets in the same shuffled order, batch by batch."""
    import paddle
    from paddle.io import DataLoader
    from paddle.vision.datasets import DatasetFolder

    def epoch_of(root, seed):
        # shuffle=True draws the order from numpy's generator: with the same seed, the same order.
        numpy.random.seed(seed)
        data = DatasetFolder(root, loader=decode)
        loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=2, return_list=True)
        return [[field.numpy() for field in batch] for batch in loader]

    paddle.set_device("cpu")
    orders = []
    for epoch in range(1, EPOCHS + 1):
        began = time.monotonic()
        mounted = epoch_of(mount, epoch)
        took = time.monotonic() - began
        for number, (one, other) in enumerate(zip(mounted, epoch_of(local, epoch), strict=True)):
            if not all(map(numpy.array_equal, one, other)):
                sys.exit(f"epoch {epoch}, batch {number}: the mount's is not the local copy's")
        samples = sum(len(labels) for _, labels in mounted)
        if samples != CLASSES * IMAGES:
            sys.exit(f"epoch {epoch}: {samples} samples")
        orders.append(numpy.concatenate([labels.reshape(-1) for _, labels in mounted]))
        print(f"epoch {epoch}: {len(mounted)} batches equal, {samples} samples in {took:.1f} s")
    if numpy.array_equal(*orders):
        sys.exit("both epochs had the same order: nothing was shuffled")


if __name__ == "__main__":
    {"make": make, "read": read}[sys.argv[1]](*sys.argv[2:])
