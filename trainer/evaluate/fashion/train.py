#!/usr/bin/env python3
"""Trains the feature network of perrin's fashion_* scores and writes it as safetensors.

    .venv/bin/python trainer/evaluate/fashion/train.py --data /usr/share/datasets/fashion-mnist --output network.safetensors

Three convolutions and two linear layers, on Fashion-MNIST; the features are what the last layer reads (64 numbers after
a ReLU). fashion_network.cpp runs the same network. A new file gives new scores: its SHA-256 is part of every result.
"""
import argparse
import gzip
import hashlib
import pathlib
import time

import numpy
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional


class FashionNetwork(nn.Module):
    """uint8 [N, 1, 28, 28] -> features float32 [N, 64] and logits [N, 10]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.features = nn.Linear(64 * 3 * 3, 64)
        self.classes = nn.Linear(64, 10)

    def forward(self, images, dropout=0.0):
        x = images.float() / 127.5 - 1
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = functional.max_pool2d(functional.relu(convolution(x)), 2)
        features = functional.relu(self.features(x.flatten(1)))
        return features, self.classes(functional.dropout(features, dropout, self.training))


def read_idx(path, header):
    """The values of a gzipped IDX file of bytes, after `header` bytes; Source: yann.lecun.com/exdb/mnist."""
    return numpy.frombuffer(gzip.open(path).read(), numpy.uint8, offset=header)


def load(folder, name):
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(images.copy()), torch.from_numpy(read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 8).astype(numpy.int64))


@torch.no_grad()
def accuracy(network, images, labels):
    network.eval()
    right = sum((network(part)[1].argmax(1) == truth).sum().item()
                for part, truth in zip(images.split(1000), labels.split(1000)))
    network.train()
    return right / len(labels)


def train(network, images, labels, epochs, batch_size, peak_lr):
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        begun = time.monotonic()
        order = torch.randperm(len(images))
        for batch in order.split(batch_size):
            if len(batch) < batch_size:
                break
            flipped = torch.rand(batch_size, 1, 1, 1) < 0.5
            x = images[batch]
            loss = functional.cross_entropy(network(torch.where(flipped, x.flip(3), x), dropout=0.2)[1], labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch, loss.item(), time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the four .gz files of Fashion-MNIST")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    network = FashionNetwork()
    images, labels = load(arguments.data, "train")
    test_images, test_labels = load(arguments.data, "t10k")
    for epoch, loss, seconds in train(network, images, labels, arguments.epochs, batch_size=128, peak_lr=4e-3):
        print(f"epoch {epoch + 1}: loss {loss:.3f}, test accuracy {accuracy(network, test_images, test_labels):.4f} "
              f"({seconds:.0f} s)", flush=True)
    result = f"{accuracy(network, test_images, test_labels):.4f}"
    # One entry: the order of several in the header is no property of the format, and the file's hash is recorded.
    safetensors.torch.save_file(network.state_dict(), arguments.output, {"test_accuracy": result})
    print(f"{arguments.output}: test accuracy {result}, SHA-256 {hashlib.sha256(arguments.output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
