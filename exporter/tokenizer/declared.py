"""What a tokenizer's files declare of tokens, compared with what the ``tokenizers`` library makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.tokenizer.files import TokenizerFiles

ROLES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def check_forms(files: TokenizerFiles) -> None:
    """Look for special tokens and ids of a form that would be passed over.

    Raises:
        TokenizerError: A special token is no text, or an id of added_tokens.json no number.
    """
    for source, mapping in (("tokenizer_config.json", files.config), ("special_tokens_map.json", files.special_map)):
        for role in ROLES:
            value = mapping.get(role)
            text = value.get("content") if isinstance(value, dict) else value
            if value is not None and not isinstance(text, str):
                raise TokenizerError(
                    f"{source}: {role} is {value!r:.60}, expected the token's text, or an object with it as content. "
                    "Write the text there, or take the entry out."
                )
    for text, token in files.added.items():
        if type(token) is not int:
            raise TokenizerError(
                f"added_tokens.json: the id of {text!r} is {token!r:.60}, expected a whole number. Write it without "
                "quotes, or save the tokenizer again with transformers."
            )


def check_ids(listed: Iterable[Mapping[str, Any]], base: Mapping[int, str], others: Mapping[int, str]) -> None:
    """Compare the declared ids of added tokens with those that the library gives them.

    It takes the id of a text that the vocabulary has; else it passes over the declared one, and gives the next id
    behind the vocabulary's size and the tokens so added (``AddedVocabulary.add_tokens`` of the library).

    Args:
        listed: ``added_tokens`` of tokenizer.json, in its order.
        base: The model's tokens by id.
        others: The texts that only other files name, by id.

    Raises:
        TokenizerError: A token would get another id.
    """
    ids = {others.get(token, text): token for token, text in base.items()}
    source = "tokenizer.json: added_tokens"
    declared = [(source, item["content"], int(item["id"])) for item in listed]
    behind = "tokenizer_config.json (added_tokens_decoder) or added_tokens.json"
    declared += [(behind, text, token) for token, text in sorted(others.items())]
    free = len(base)
    for where, text, token in declared:
        if not text:
            continue
        free += text not in ids
        found = ids.setdefault(text, free - 1)
        if found != token and text not in base.values():  # two of one text have a message of their own
            raise TokenizerError(
                f"{where}: token {text!r} is declared as {token}, and the tokenizers library gives it {found}: the "
                f"ids of added tokens go on from the vocabulary's {len(base)} tokens without a gap, in the order in "
                "which they stand. Correct the id, or save the tokenizer again with what trained the model."
            )
