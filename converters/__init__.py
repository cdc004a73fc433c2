"""The families: tables, no I/O. ``ALL`` is the registry; ``find`` looks a family up by its architecture."""

from difflib import get_close_matches

from converters.gemma import GEMMA
from converters.gemma2 import GEMMA2
from converters.gemma3 import GEMMA3
from converters.llama import LLAMA
from converters.mistral import MISTRAL
from converters.mixtral import MIXTRAL
from converters.qwen2 import QWEN2
from converters.qwen2_moe import QWEN2_MOE
from converters.qwen3 import QWEN3
from converters.qwen3_moe import QWEN3_MOE
from converters.spec import Family

ALL = (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3)


def find(architecture: str) -> Family | None:
    """The family of an architecture as ``config.json`` names it, or None."""
    return next((family for family in ALL if architecture in family.architectures), None)


def nearest(architecture: str) -> list[str]:
    """Supported architectures whose names are like this one, the most alike first; at most three."""
    return get_close_matches(architecture, [name for family in ALL for name in family.architectures], cutoff=0.7)
