"""The transformers model with its live adapters, in a process of its own: it computes the run's own logits."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from exporter.check.divergence import Logits, mean_kld
from exporter.llamacpp.wire import receive, send


class Unable(Exception):  # noqa: N818  (no error: the proof is skipped, and says why)
    """The run's own logits cannot be had."""


def serve() -> None:
    """Answer one request on stdin: rows of logits in float32, or why there are none."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    request, _ = receive(requests)
    try:
        logits, base = _logits(request)
    except Unable as reason:
        send(replies, {"unable": str(reason)}, b"")
    except Exception as error:  # noqa: BLE001  (transformers and PEFT may raise anything)
        send(replies, {"unable": f"{type(error).__name__}: {str(error)[:300]}"}, b"")
    else:
        send(replies, {"columns": logits.shape[1], "moved": _moved(base, logits)}, logits.tobytes())
    os._exit(0)


def _logits(request: dict[str, Any]) -> tuple[Logits, Logits | None]:
    """The logits after the last ``keep`` of the ids, and where there are adapters those of the base without them."""
    import torch  # noqa: PLC0415  (seconds to import)

    torch.set_num_threads(request["threads"])
    base = _base(request)
    ids = torch.tensor([request["ids"]])

    def last(model: Any) -> Logits:  # noqa: ANN401
        with torch.no_grad():
            return np.ascontiguousarray(model(input_ids=ids).logits[0, -request["keep"] :].float().numpy(), np.float32)

    before = last(base) if request["adapters"] else None
    return last(_adapted(base, request)), before


def _moved(base: Logits | None, logits: Logits) -> float | None:
    """How far the adapters move the logits: the mean KLD in nats; None without adapters, or over other vocabularies."""
    return mean_kld(logits, base) if base is not None and base.shape == logits.shape else None


def _base(request: dict[str, Any]) -> Any:  # noqa: ANN401
    """The base in float32, from its own files alone. Unable where there is no class, or the files lack something."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, request["architecture"], None)
    if kind is None:
        raise Unable(f"transformers {transformers.__version__} has no class {request['architecture']}")
    model, info = kind.from_pretrained(
        request["base"],
        dtype=torch.float32,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if lacking:
        raise Unable(f"transformers does not find {', '.join(sorted(map(str, lacking))[:3])} in the base's files")
    return model.eval()


def _adapted(model: Any, request: dict[str, Any]) -> Any:  # noqa: ANN401
    """The model with its adapters laid on, all of them at work. Unable where PEFT does not take all of a file."""
    if not request["adapters"]:
        return model
    import peft  # noqa: PLC0415

    if model.get_input_embeddings().weight.shape[0] < request["rows"]:
        model.resize_token_embeddings(request["rows"], mean_resizing=False)
    names = [f"adapter{k}" for k in range(len(request["adapters"]))]
    live: Any = None
    for name, (folder, weight) in zip(names, request["adapters"], strict=True):
        if live is None:
            live = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
        result = live.load_adapter(folder, adapter_name=name)
        lacking = [key for key in result.missing_keys if f".{name}." in key]
        left = [*(key for key in result.unexpected_keys if not _is_embedding_again(key, folder)), *lacking]
        if left:
            raise Unable(f"PEFT does not take {len(left)} of the adapter's tensors: {left[0]}")
        _scale(live, name, weight)
    live.base_model.set_adapter(names)
    return live.eval()


def _is_embedding_again(key: str, folder: str) -> bool:
    """Whether a tensor of trained tokens is what a tied head has of the embedding: PEFT saves it twice, and ties it."""
    from safetensors import safe_open  # noqa: PLC0415

    part = key.partition("lm_head.token_adapter.")[2]
    file = Path(folder) / "adapter_model.safetensors"
    if not part or not file.is_file():
        return False
    with safe_open(file, framework="pt") as opened:
        names = set(opened.keys())
        others = [name for name in names if name.endswith(f"embed_tokens.token_adapter.{part}")]
        return key in names and any(opened.get_tensor(key).equal(opened.get_tensor(name)) for name in others)


def _scale(live: Any, name: str, weight: float) -> None:  # noqa: ANN401
    """Multiply an adapter's changes by a factor. Unable where its method has none."""
    found = [getattr(module, "scaling", None) for module in live.modules()]
    scaled = [scaling for scaling in found if isinstance(scaling, dict) and name in scaling]
    if weight != 1 and not scaled:
        raise Unable("an adapter of this method has no factor in PEFT")
    for scaling in scaled:
        scaling[name] *= weight
