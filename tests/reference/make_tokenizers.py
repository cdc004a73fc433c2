"""Make tokenizers.json: what llama.cpp's converter writes for real tokenizers.

``python make_tokenizers.py LLAMA_CPP DATA`` with LLAMA_CPP the source tree of llama.cpp (it is inside the source
distribution of llama-cpp-python 0.3.36) and DATA the folder ``data/tokenizers``. Arrays and templates are kept as their
SHA-256. A tokenizer that the converter cannot convert gets no ``golden``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

SIZES = json.loads("""{
 "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32,
 "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "rope_theta": 10000.0,
 "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
 "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
 "first_k_dense_replace": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": true, "n_group": 1, "topk_group": 1,
 "layer_norm_eps": 1e-5, "logit_scale": 0.8, "sliding_window": 512, "rope_local_base_freq": 10000.0
}""")
LLAMA = ("LlamaForCausalLM", "llama")
QWEN = {"vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645}
LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2}

# Folder -> architecture, model_type, and the ids of the model's config.json; vocab_size is the embedding's rows.
CASES: dict[str, tuple[str, str, dict[str, object]]] = {
    "command_r_plus": (
        "CohereForCausalLM",
        "cohere",
        {"vocab_size": 256000, "bos_token_id": 5, "eos_token_id": 255001},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        {"vocab_size": 129280, "bos_token_id": 0, "eos_token_id": 1},
    ),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", {"vocab_size": 262144, "bos_token_id": 2, "eos_token_id": [1, 106]}),
    "internlm2": (*LLAMA, {"vocab_size": 92544, **LLAMA_IDS}),
    "llama2": (*LLAMA, {"vocab_size": 32000, **LLAMA_IDS}),
    "llama3_2": (*LLAMA, {"vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}),
    "mistral_nemo": (*LLAMA, {"vocab_size": 131072, **LLAMA_IDS}),
    "mistral_spm_v3": (*LLAMA, {"vocab_size": 32768, **LLAMA_IDS}),
    "mixtral_8x22b_v0_1": (*LLAMA, {"vocab_size": 32000, **LLAMA_IDS}),
    "olmo2_dolma2": ("Olmo2ForCausalLM", "olmo2", {"vocab_size": 100352, "eos_token_id": 100257}),
    "phi3_mini": (*LLAMA, {"vocab_size": 32064, "bos_token_id": 1, "eos_token_id": 32000}),
    "qwen2_5": ("Qwen2ForCausalLM", "qwen2", QWEN),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", QWEN),
    "yi": (*LLAMA, {"vocab_size": 64000, **LLAMA_IDS}),
}


def short(value: object) -> object:
    """Return a value as the reference keeps it: long ones as their SHA-256."""
    text = json.dumps(value, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if len(text) > 80 else value


def convert(llama_cpp: Path, source: Path, config: dict[str, object]) -> dict[str, object] | None:
    """Run the converter over the tokenizer alone; return its keys, or None where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out.gguf"
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            if (source / file).is_file():
                shutil.copy(source / file, folder / file)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        script = str(llama_cpp / "convert_hf_to_gguf.py")
        done = subprocess.run(
            [sys.executable, script, "--vocab-only", "--outfile", str(out), str(folder)],
            check=False,
            capture_output=True,
        )
        if done.returncode:
            return None
        fields = gguf.GGUFReader(out).fields
        return {key: short(field.contents()) for key, field in fields.items() if key.startswith("tokenizer.")}


def main(llama_cpp: Path, data: Path) -> None:
    """Write tokenizers.json beside this script."""
    made = {}
    for name, (architecture, model_type, ids) in CASES.items():
        config = {**SIZES, **ids, "architectures": [architecture], "model_type": model_type}
        made[name] = {"config": ids, "golden": convert(llama_cpp, data / name, config)}
    text = json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False)
    (Path(__file__).parent / "tokenizers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
