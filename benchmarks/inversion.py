"""Why does q5_k_m lose more than q4_k_m on SmolLM2, whose weights lie on the grid of Q4_1?

    python -m benchmarks.inversion models/smollm2-135m-instruct --text wikitext2-raw-test.txt [--chunks 10]

There q4_k_m falls back to Q5_0 where q5_k_m falls back to Q5_1. Each is put alone into all matrices of the layers of an
f32 GGUF, and measured against it:

- as it is;
- with the signs of its errors shuffled: the same sizes at the same places, but nothing that follows the weights.

Beside KL divergence stand the energies of the errors, both relative: of the weights, ‖E‖² / ‖W‖², and of the outputs on
real activations x, E‖E x‖² / E‖W x‖², the mean over matrices. ``gain`` is the regression of errors on weights.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer

from exporter.pipeline import Options, prepare
from exporter.profiles import load_profile
from exporter.quantize import quantize
from exporter.verify import Options as Measuring
from exporter.verify import level_fields, measure
from exporter.writer import write

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WINDOWS, CONTEXT = 6, 512
Matrix = npt.NDArray[Any]


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=10)
    arguments = parser.parse_args()
    inputs = activations(arguments.model, arguments.text)
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base.gguf"
        _, source, plan = prepare(str(arguments.model), [load_profile("f32")], Options(verify=False))
        write(plan, source, [base], threads=2, progress=lambda _done, _total: None)
        names = [(kind, shuffled) for kind in ("Q5_0", "Q5_1") for shuffled in (False, True)]
        files = [Path(place) / f"{kind}-{shuffled}.gguf" for kind, shuffled in names]
        energies = [change(base, file, name, inputs) for file, name in zip(files, names, strict=True)]
        found = measure(base, files, Measuring(arguments.text, arguments.chunks))
    print(f"{'errors of':<18}{'weights':>10}{'outputs':>10}{'gain':>9}{'mean KLD':>11}{'±':>9}")
    for (kind, shuffled), row, level in zip(names, energies, found.levels, strict=True):
        kld: Any = level_fields(found, level)["kld"]
        name = f"{kind}{', shuffled' if shuffled else ''}"
        print(f"{name:<18}{row[0]:>10.5f}{row[1]:>10.5f}{row[2]:>9.4f}{kld['mean']:>11.4f}{kld['error']:>9.4f}")


def activations(model: Path, text: Path) -> Mapping[str, Matrix]:
    """The sum of x xᵀ over tokens, for the input x of each matrix (columns x columns), by GGUF name."""
    import torch  # noqa: PLC0415  (slow to import)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text.read_text("utf-8")[:60_000]).ids
    sums: dict[str, Any] = {}

    def keep(name: str, given: tuple[torch.Tensor, ...]) -> None:
        x = given[0].reshape(-1, given[0].shape[-1]).double()
        sums[name] = sums.get(name, 0) + x.T @ x

    for i, layer in enumerate(network.model.layers):
        for ours, theirs in MODULES.items():
            name = f"blk.{i}.{ours}.weight"
            layer.get_submodule(theirs).register_forward_hook(lambda _m, given, _o, name=name: keep(name, given))
    with torch.no_grad():
        for k in range(WINDOWS):
            network(torch.tensor([ids[CONTEXT * k : CONTEXT * (k + 1)]]))
    return {name: total.numpy() for name, total in sums.items()}


def change(base: Path, file: Path, name: tuple[str, bool], inputs: Mapping[str, Matrix]) -> Matrix:
    """Write a copy whose matrices have a type's errors; return the energies and the gain, means over matrices."""
    kind, shuffled = name
    shutil.copy(base, file)
    random, rows = np.random.default_rng(0), []
    reader = GGUFReader(file, "r+")
    for tensor in reader.tensors:
        if tensor.name in inputs:
            weights = np.array(tensor.data)
            packed = np.asarray(quantize(kind, weights)).reshape(len(weights), -1).view(np.uint8)
            error = dequantize(packed, GGMLQuantizationType[kind]) - weights
            if shuffled:
                error *= random.choice(np.float32([-1, 1]), error.shape)
            tensor.data[:] = weights + error
            of_weights = [float(np.vdot(error, one) / np.vdot(weights, weights)) for one in (error, weights)]
            outputs = [float(np.vdot(one @ inputs[tensor.name], one)) for one in (error, weights)]
            rows.append((of_weights[0], outputs[0] / outputs[1], of_weights[1]))
    return np.mean(rows, axis=0)


if __name__ == "__main__":
    main()
