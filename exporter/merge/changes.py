"""An adapter's tensors, each laid to the weight it changes; every one is used, left out by name, or refused."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.experts import of_experts, parameter_of
from exporter.merge.keys import PREFIX, WHOLE, in_peft_form, part_of
from exporter.merge.lora import check_layer, check_target, is_set_aside, rank_and_scale, token_ids
from exporter.merge.values import Added, Change, Changes, Factors, Given, Tokens

LAID = {"tokens", "base"}  # rows trained alone, and the resized matrix that they are laid over
PAIR = 2  # tensors of LoRA, and sides of a matrix
SINCE_WRAPPED = ("loftq_config", "megatron_config", "peft_version")
"""Fields that PEFT writes since 0.7, in which a layer of LoRA wraps the module, whose bias is ``base_layer.bias``."""
Slots = dict[str, dict[str, str]]
"""Our name of a weight (or what the adapter calls a fused parameter) -> part of its change -> tensor of the adapter."""


def read_changes(given: Given) -> Changes:
    """The changes of an adapter of LoRA or of trained tokens.

    MergeError for a tensor that no rule knows.
    """
    spelled = in_peft_form(given.shapes, lambda name: _fits(name, given))
    slots: Slots = {}
    modules, left_out = {}, []
    for name, form in spelled.items():
        if _is_left_out(form, given):  # whatever it holds
            left_out.append(name)
            continue
        module, part = part_of(form, given.config, given.path)
        modules[name] = module
        weight = _place(module, part, given)
        if weight is None:
            left_out.append(name)
        elif not given.shapes[name]:
            raise MergeError(
                f"{given.path}: {name} is a single number, expected a vector or a matrix. The file is damaged: copy it "
                "again, or save the adapter again."
            )
        elif part in slots.setdefault(weight, {}):
            raise MergeError(f"{given.path}: {weight} has two tensors for one place: {slots[weight][part]} and {name}.")
        else:
            slots[weight][part] = name
    changes: dict[str, Change] = {}
    for weight, names in slots.items():
        _check_bias(weight, slots, given)
        changes |= _changes(weight, names, given, modules)
    return Changes(changes, len(given.shapes), tuple(left_out))


def _place(module: str, part: str, given: Given) -> str | None:
    """What a tensor changes: our name of a weight, a fused parameter of experts; None for a part that is left out."""
    if part in WHOLE.values():
        return given.spell(module)
    fused = _fused(module, given)
    if fused is not None:
        return fused if given.split(fused) else given.spell(fused)
    return given.spell(f"{module}.{'bias' if part == 'bias' else 'weight'}")


def _is_left_out(name: str, given: Given) -> bool:
    """Whether a tensor, spelled as PEFT does, is of a part that is left out."""
    return name.startswith(PREFIX) and given.spell(name.removeprefix(PREFIX)) is None


def _fused(module: str, given: Given) -> str | None:
    """The parameter that a pair of factors is of, one that the base has; None for a pair of a plain module.

    ``target_parameters`` may name a parameter as shortly as ``down_proj``, which a plain module may be called too.
    """
    found = parameter_of(module, given.config)
    there = found is not None and (given.split(found) or given.spell(found) in given.base)
    return found if there else None


def _fits(name: str, given: Given) -> bool:
    """Whether a name, spelled as PEFT does, is of a weight that the base has, or of a part that is left out."""
    if _is_left_out(name, given):
        return True
    try:
        module, part = part_of(name, given.config, given.path)
    except MergeError:
        return False
    weight = _place(module, part, given)
    return weight is None or weight in given.base or weight in (EMBEDDING, HEAD) or bool(given.split(weight))


def _changes(weight: str, names: Mapping[str, str], given: Given, modules: Mapping[str, str]) -> dict[str, Change]:
    """The changes that an adapter's tensors of one place make together; MergeError where they contradict each other."""
    whole = [names[part] for part in ("saved", "copy", "base") if part in names]
    parts = {part: name for part, name in names.items() if part not in WHOLE.values()}
    if ("base" in names and len(whole) > 1) or (parts and "copy" in names) or ("tokens" in parts and set(names) - LAID):
        raise MergeError(f"{given.path}: {weight} has two tensors for one place: {' and '.join(names.values())}.")
    if not whole and "original" in names:
        raise MergeError(
            f"{given.path}: {names['original']} is what was there before training; what training made of it is not in "
            "the file. Save the adapter again."
        )
    change = Change(
        weight,
        replaced_by=whole[0] if whole else None,
        copy=whole[1] if len(whole) > 1 else None,
        # A bias is trained where it lies: what is saved of the base layer is not what was there before.
        origin=None if weight.endswith(".bias") else names.get("base", names.get("original")),
    )
    if "tokens" in parts:
        return {weight: replace(change, tokens=_tokens(weight, parts["tokens"], modules[parts["tokens"]], given))}
    if "bias" in parts:
        if not given.config.get("lora_bias"):
            raise MergeError(
                f"{given.path}: holds {parts['bias']}, and adapter_config.json does not say lora_bias: PEFT would "
                "leave it out. The two files are of different runs: copy both from one."
            )
        scale = rank_and_scale(given.config, modules[parts["bias"]], given.path)[1]
        return {weight: replace(change, added=Added(parts["bias"], scale))}
    if not parts:
        return {weight: change}
    rank, factors = _factors(parts, given, modules)
    if given.split(weight):
        experts = of_experts(factors, rank, given.split(weight), given)
        return {name: Change(name, factors=one) for name, one in experts.items()}
    return {weight: replace(change, factors=factors)}


def _tokens(weight: str, name: str, module: str, given: Given) -> Tokens:
    """Rows trained alone; MergeError where the file and the config do not tell of the same.

    Whether the matrix has these rows is for the vocabulary's ledger, for training may have resized it.
    """
    ids = token_ids(given.config, module, given.path)
    if is_set_aside(given.config, module):
        raise MergeError(
            f"{given.path}: has trained tokens of {module}, which modules_to_save of adapter_config.json names as "
            "saved whole: PEFT does not load such an adapter. The two files are of different runs: copy both from one."
        )
    base = given.base.get(weight) or given.base[EMBEDDING]
    if given.shapes[name] != (len(ids), base[-1]) or len(base) != PAIR or min(ids, default=0) < 0:
        raise MergeError(
            f"{given.path}: {name} is {list(given.shapes[name])}, adapter_config.json names {len(ids)} tokens from "
            f"{min(ids, default=0)} on, {weight} is {list(base)}. The files are of different runs."
        )
    return Tokens(name, ids)


def _factors(parts: Mapping[str, str], given: Given, modules: Mapping[str, str]) -> tuple[int, Factors]:
    """The rank and the pair of one weight; MergeError for half a pair, or a rank that is not the configured one."""
    embedding = "embedding_a" in parts or "embedding_b" in parts
    a, b = (parts.get(f"embedding_{key}" if embedding else key) for key in "ab")
    magnitude = parts.get("magnitude")
    if a is None or b is None or len(parts) > PAIR + (magnitude is not None):
        raise MergeError(
            f"{given.path}: {' and '.join(parts.values())} of one weight: one has no counterpart, for lora_A and "
            "lora_B (or lora_embedding_A and _B) go together. Save the adapter again."
        )
    module = modules[a]
    fused = _fused(module, given)
    if fused is None:  # PEFT finds parameters by target_parameters alone
        check_layer(given.config, module, given.path)
        check_target(given.config, module, given.path)
    _check_pair(a, b, given)
    _check_magnitude(a, magnitude, given)
    ranks, tied = (given.shapes[a][0], given.shapes[b][-1]), _tied_rank(module, modules.values(), given)
    rank, scale = rank_and_scale(given.config, fused or module, given.path, None if fused or tied else ranks[0])
    expected = tied or rank
    other = next((found for found in ranks if found != expected), None)
    if other is not None and not (fused and given.split(fused)):
        raise MergeError(
            f"{given.path}: {module} has rank {other} by its tensors, {expected} by adapter_config.json "
            "(r, rank_pattern). The two files are of different runs."
        )
    return rank, Factors(a, b, scale, embedding, magnitude, conv1d=given.turned(f"{module}.weight"))


def _tied_rank(module: str, modules: Iterable[str], given: Given) -> int | None:
    """The rank of a head that PEFT ties to the embedding, and gives its tensors; None for any other module.

    The head's scale follows from the head's own rank all the same.
    """
    if given.spell(f"{module}.weight") != HEAD or not (given.tied and given.config.get("ensure_weight_tying")):
        return None
    embedding = next((one for one in modules if given.spell(f"{one}.weight") == EMBEDDING), None)
    return None if embedding is None else rank_and_scale(given.config, embedding, given.path)[0]


def _check_bias(weight: str, slots: Slots, given: Given) -> None:
    """MergeError for a bias by its plain name, beside LoRA on its module, of a PEFT that loads it by another name."""
    pair = slots.get(f"{weight.removesuffix('bias')}weight", {})
    wrapped = [field for field in SINCE_WRAPPED if field in given.config]
    if weight.endswith(".bias") and "saved" in slots[weight] and "a" in pair and wrapped:
        name = slots[weight]["saved"]
        raise MergeError(
            f"{given.path}: holds {name} beside {pair['a']}, as PEFT before 0.7 saved a trained bias, and "
            f"adapter_config.json is of a later one ({wrapped[0]}), which would leave it out. If training did make it, "
            f"call it {name.removesuffix('bias')}base_layer.bias in the file; else take it out."
        )


def _check_pair(a: str, b: str, given: Given) -> None:
    """MergeError for a pair that is empty, or no two matrices."""
    shapes = f"{a} is {list(given.shapes[a])} and {b} is {list(given.shapes[b])}"
    if 0 in (*given.shapes[a], *given.shapes[b]):
        raise MergeError(
            f"{given.path}: {shapes}: the parameters were not gathered when the run was saved under DeepSpeed ZeRO-3 "
            "or FSDP. Run zero_to_fp32.py on the checkpoint, or save once more."
        )
    if len(given.shapes[a]) != PAIR or len(given.shapes[b]) != PAIR:
        raise MergeError(
            f"{given.path}: {shapes}, expected two matrices. Such an adapter is not merged here. Merge it with PEFT "
            "first."
        )


def _check_magnitude(a: str, magnitude: str | None, given: Given) -> None:
    """MergeError where DoRA's config and tensors do not go together."""
    if bool(given.config.get("use_dora")) != (magnitude is not None):
        said = "says use_dora" if given.config.get("use_dora") else "does not say use_dora"
        raise MergeError(
            f"{given.path}: adapter_config.json {said}, and {a} has {'a' if magnitude else 'no'} lora_magnitude_vector "
            "beside it. The two files are of different runs: copy both from one."
        )
