"""The families: tables, no I/O. ``ALL`` is the registry; ``find`` looks a family up by its architecture."""

from difflib import get_close_matches
from importlib import import_module

from converters.baichuan import BAICHUAN
from converters.cohere2 import COHERE2
from converters.command_r import COMMAND_R
from converters.deepseek import DEEPSEEK
from converters.deepseek_v2 import DEEPSEEK_V2
from converters.deepseek_v3 import DEEPSEEK_V3
from converters.exaone import EXAONE
from converters.exaone4 import EXAONE4
from converters.gemma import GEMMA
from converters.gemma2 import GEMMA2
from converters.gemma3 import GEMMA3
from converters.gemma3n import GEMMA3N
from converters.gemma4 import GEMMA4
from converters.glm import GLM
from converters.glm4 import GLM4
from converters.gpt2 import GPT2
from converters.gpt_neox import GPT_NEOX
from converters.gpt_oss import GPT_OSS
from converters.granite import GRANITE
from converters.granite_moe import GRANITE_MOE
from converters.internlm2 import INTERNLM2
from converters.internlm3 import INTERNLM3
from converters.known import KNOWN
from converters.llama import LLAMA
from converters.llama4 import LLAMA4
from converters.mistral import MISTRAL
from converters.mistral3 import MISTRAL3
from converters.mistral3_native import MISTRAL3_NATIVE
from converters.mistral_native import MISTRAL_NATIVE
from converters.mixtral import MIXTRAL
from converters.olmo import OLMO
from converters.olmo2 import OLMO2
from converters.olmo3 import OLMO3
from converters.olmoe import OLMOE
from converters.phi2 import PHI2
from converters.phi3 import PHI3
from converters.qwen2 import QWEN2
from converters.qwen2_moe import QWEN2_MOE
from converters.qwen2_vl import QWEN2_VL
from converters.qwen3 import QWEN3
from converters.qwen3_5 import QWEN3_5
from converters.qwen3_5_moe import QWEN3_5_MOE
from converters.qwen3_moe import QWEN3_MOE
from converters.qwen3_next import QWEN3_NEXT
from converters.qwen3_vl import QWEN3_VL
from converters.qwen3_vl_moe import QWEN3_VL_MOE
from converters.smollm3 import SMOLLM3
from converters.spec import Family
from converters.stablelm import STABLELM
from converters.starcoder2 import STARCODER2

ALL = (
    LLAMA,
    MISTRAL,
    MISTRAL3,
    MISTRAL_NATIVE,
    MISTRAL3_NATIVE,
    MIXTRAL,
    BAICHUAN,
    EXAONE4,
    EXAONE,
    INTERNLM3,
    INTERNLM2,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    QWEN2_VL,
    QWEN3_VL,
    QWEN3_VL_MOE,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    GEMMA4,
    PHI3,
    COMMAND_R,
    COHERE2,
    SMOLLM3,
    GRANITE,
    PHI2,
    GRANITE_MOE,
    GLM4,
    GLM,
    OLMO2,
    OLMO3,
    DEEPSEEK,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GPT_OSS,
    LLAMA4,
    OLMO,
    OLMOE,
    STARCODER2,
    GPT2,
    GPT_NEOX,
    STABLELM,
)

REFUSED = dict.fromkeys(
    ("PhiMoEForCausalLM", "PhimoeForCausalLM"),
    # Measured with llama.cpp of llama-cpp-python 0.3.36 on its own converter's file of a random model: its logits
    # differ by 2.7 of their deviation; with both of these faults put into transformers' model, by 2e-6.
    "llama.cpp's norms leave out the subtraction of the mean, and it mixes two experts by a softmax over their scores, "
    "where the model weighs each against its rivals alone (SparseMixer, arXiv 2409.12136)",
) | {
    "HyperCLOVAXForCausalLM": "llama.cpp has no graph for it (Llama's, with factors of its own and norms behind each "
    "block); the smaller HyperCLOVA X SEED text models are LlamaForCausalLM, and are exported"
}
"""Architectures that llama.cpp does not know, or loads and computes wrongly, so that no file is right, and why."""


def find(architecture: str) -> Family | None:
    """The family of an architecture as ``config.json`` names it, or None."""
    return next((family for family in ALL if architecture in family.architectures), None)


def about(family: Family) -> str:
    """Which models a family is for, and what is particular to it: the first line of its table's own file."""
    module = import_module(f"{__name__}.{family.name.replace('-', '_')}")
    return (module.__doc__ or "").strip().partition("\n")[0].removesuffix(".")


def llamacpp_knows(architecture: str) -> bool:
    """Whether llama.cpp's converter has a text model of this architecture, though there is no table of it here."""
    return architecture in KNOWN.split()


def nearest(architecture: str) -> list[str]:
    """Supported architectures whose names are like this one, the most alike first; at most three."""
    return get_close_matches(architecture, [name for family in ALL for name in family.architectures], cutoff=0.7)
