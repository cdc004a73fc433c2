"""FIXTURE: an invented report, plausible and with every field; no measurement; and what tests ask of it."""

import copy
from html.parser import HTMLParser
from typing import Any, cast

from exporter.report.schema import Document

HASH = "9f2c1e" + "0123456789abcdef" * 3 + "0123456789"


def measured(quant: str, size: int, bpw: float, figures: tuple[float, float, float]) -> dict[str, Any]:
    """Return an invented level; ``figures`` are the perplexity ratio, mean KL divergence and top-1 agreement."""
    ratio, kld, top1 = figures
    name = f"SmolLM2-135M-Instruct-support-{quant.upper()}.gguf"
    return {
        "quant": quant,
        "files": [name],
        "file": name,
        "bytes": size,
        "bpw": bpw,
        "sha256": HASH,
        "types": {"Q4_K": 95_551_488, "Q5_0": 28_311_552, "Q8_0": 10_617_696, "F32": 34_272},
        "fallbacks": [],
        "perplexity": {"value": 24.5 * ratio, "error": 0.71, "ratio": ratio, "ratio_error": 0.12 * kld + 0.0004},
        "kld": {
            "mean": kld,
            "error": kld * 0.04,
            "median": kld * 0.4,
            "p90": kld * 2.5,
            "p99": kld * 9.1,
            "p999": kld * 28,
            "max": kld * 66,
            "floor": 0.0000123,
        },
        "top1": {"value": top1, "error": 0.0031},
        "top5": {"value": top1 + 0.01, "error": 0.0021},
        "dp": {"mean": -kld / 15, "rms": kld**0.5 / 6, "error": kld / 90},
        "survival": {"value": 0.97, "error": 0.011},
        "tasks": [],
        "gates": [],
        "verdict": "pass",
    }


def fixture() -> Document:
    """Return the invented document: nine levels, one of them with an error and one not measured."""
    levels = [
        measured("q8_0", 144_811_328, 8.51, (1.0004, 0.00061, 0.9832)),
        measured("q6_k", 138_383_680, 8.13, (1.0011, 0.0019, 0.9718)),
        measured("q5_k_m", 112_107_328, 6.58, (1.0052, 0.0078, 0.9514)),
        measured("q4_k_m", 105_454_144, 6.19, (1.0187, 0.0311, 0.9021)),
        measured("iq4_xs", 103_201_792, 6.06, (1.0203, 0.0323, 0.8993)),
        measured("q3_k_m", 93_511_488, 5.49, (1.0812, 0.1173, 0.8209)),
        measured("q2_k", 88_202_560, 5.18, (1.2471, 0.3312, 0.7113)),
    ]
    levels[3]["gates"] = [
        {"gate": "kld<0.05", "value": 0.0311, "status": "pass"},
        {"gate": "top1>0.9", "value": 0.9021, "status": "undecided"},
    ]
    levels[3]["verdict"] = "undecided"
    levels[3]["tasks"] = [
        {"name": "intent", "metric": "accuracy", "n": 1400, "reference": 0.8103, "value": 0.8007}
        | {"retained": 0.9882, "low": 0.9617, "high": 1.0149}
    ]
    levels[3]["fallbacks"] = [
        {"tensor": f"blk.{layer}.attn_q.weight", "wanted": "Q4_K", "got": "Q5_0", "why": "row of 576"}
        for layer in range(30)
    ] + [{"tensor": "token_embd.weight", "wanted": "Q6_K", "got": "Q8_0", "why": "row of 576"}]
    levels[6]["gates"] = [{"gate": "kld<0.05", "value": 0.3312, "status": "fail"}]
    levels[6]["verdict"] = "fail"
    levels.append(unmeasured("q3_k_s", 88_202_561, "error"))
    levels[7]["error"] = "llama.cpp could not evaluate the file: out of memory\nat chunk 7 of 40: give fewer --threads."
    levels.append(unmeasured("iq2_xxs", 2_063_511, "not measured"))
    levels[8]["gates"] = [{"gate": "kld<0.05", "value": None, "status": "not measured"}]
    return cast("Document", top() | {"levels": levels})


def unmeasured(quant: str, size: int, verdict: str) -> dict[str, Any]:
    name = f"SmolLM2-135M-Instruct-support-{quant.upper()}.gguf"
    fields = {"quant": quant, "files": [name], "file": name, "bytes": size, "bpw": 4.4, "sha256": HASH[::-1]}
    return fields | {"verdict": verdict, "kld": None}


def run() -> dict[str, Any]:
    return {
        "path": "./runs/support-lora",
        "kind": "lora",
        "trainer": "axolotl",
        "architecture": "LlamaForCausalLM",
        "family": "llama",
        "parameters": 134_515_008,
        "left_out": ["vision tower", "value head"],
        "tokenizer": {
            "model": "gpt2",
            "pre": "smollm",
            "tokens": 49_152,
            "special": {"eot": {"id": 2, "text": "<|im_end|>", "source": "the chat template"}},
            "adds_bos": False,
            "chat_template": "chat_template.jinja",
        },
        "base": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "path": "./models/smollm2", "sha256": HASH[3:] + "abc"},
        "adapters": [
            {"path": "./runs/support-lora/final", "sha256": HASH[5:] + "54321", "method": "dora", "weight": 0.75}
        ],
    }


def top() -> dict[str, Any]:
    return {
        "schema": 1,
        "ggufx": "0.1.0",
        "created": "2026-11-22T12:00:00Z",
        "command": ["ggufx", "export", "./support-lora", "--quant", "q8_0,q4_k_m", "--gate", "kld<0.05"],
        "run": run(),
        "merge": {"adapter_tensors": 422, "used": 421, "weights_changed": 210, "largest_relative_delta": 0.03127},
        "checks": [
            {"name": "loads", "status": "pass", "detail": "llama.cpp loads every file"},
            {"name": "tokenizer", "status": "fail", "detail": "4 of 2 000 texts differ"},
            {"name": "logits", "status": "skipped", "detail": "ask with --prove"},
        ],
        "measured_on": {
            "text": "held-out.txt",
            "sha256": HASH[7:] + "7654321",
            "chunks": 41,
            "context": 512,
            "tokens": 20_992,
            "mode": "llama.cpp",
            "engine": "llama-cpp-python 0.3.36",
        },
        "reference": {"kind": "bf16", "perplexity": {"value": 24.4986, "error": 0.7034}},
        "warnings": [
            "The tokenizer normalizes text (NFC) and llama.cpp does not: 'é' written as two characters differs."
        ],
    }


FIXTURE = fixture()


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the fixture with the field at ``path`` (such as levels.0.quant) set, or removed where ``value`` is ...."""
    document: Any = copy.deepcopy(FIXTURE)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return cast("dict[str, Any]", document)


class Page(HTMLParser):
    """The text of a page, its attributes, and the elements left open."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element, and its attributes."""
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Stop where another element is open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All text of the page."""
        return "".join(self.words)
