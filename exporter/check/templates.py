"""The proof of the chat template: a second engine renders the file's as jinja2 renders the run's, with one BOS."""

from typing import TYPE_CHECKING

from exporter.check.expected import ROLES
from exporter.check.ids import difference
from exporter.check.values import Check
from exporter.tokenizer.template import rendered

if TYPE_CHECKING:
    from exporter.check.expected import Expected, Prompt
    from exporter.llamacpp import Engine

NAME, BOS = "template", "bos"
ROOM = 40


def check_template(engine: "Engine", expected: "Expected") -> Check:
    """The conversations rendered by MiniJinja from the file's template, and the file's ids of what is rendered.

    What one engine refuses and the other renders is compared as far as it goes: where jinja2 does not render, there is
    no truth; where MiniJinja does not, the check is skipped, never passed.
    """
    template = engine.facts.chat_template
    if template is None or expected.template is None:
        if template is expected.template:
            return Check(NAME, "skipped", "the run has no chat template, and the file has none")
        return Check(NAME, "fail", f"the {'file' if template is None else 'run'} has no chat template, the other has")
    special = _special(engine)
    given = [{key: one for key, one in prompt.values.items() if key not in ROLES} for prompt in expected.prompts]
    again = rendered(template, [values | special for values in given], "minijinja")
    wrong: list[str] = []
    unable: list[str] = []
    right: list[str] = []
    for prompt, (text, failed) in zip(expected.prompts, again, strict=True):
        if prompt.failed is not None:
            continue
        problem = _compare(engine, prompt, text if failed is None else None)
        if problem is not None:
            wrong.append(f"{prompt.name}: {problem}")
        else:
            (right if failed is None else unable).append(prompt.name if failed is None else f"{prompt.name}: {failed}")
    refused = [f"{prompt.name}: {prompt.failed}" for prompt in expected.prompts if prompt.failed is not None]
    return _verdict(template == expected.template, wrong, unable, (right, refused))


def _verdict(same: bool, wrong: list[str], unable: list[str], rest: tuple[list[str], list[str]]) -> Check:  # noqa: FBT001
    """The check of what was compared; ``same``: whether the file's template is the run's, letter for letter."""
    right, refused = rest
    kept = "the file's template is the run's own" if same else "the file's template is not the run's text"
    if wrong:
        why = ": a second engine reads it otherwise, or it asks for a token that programs do not give" if same else ""
        return Check(NAME, "fail", f"{'; '.join(wrong)} ({kept}{why})")
    if unable:
        return Check(NAME, "skipped", f"{kept}; MiniJinja does not render {'; '.join(unable)}")
    if not right:
        return Check(NAME, "skipped", f"{kept}; jinja2 renders no conversation: {'; '.join(refused)}")
    detail = f"{', '.join(right)}: rendered alike by jinja2 and MiniJinja, and split alike; {kept}"
    return Check(NAME, "pass", detail + (f"; not rendered by jinja2: {'; '.join(refused)}" if refused else ""))


def check_bos(engine: "Engine", expected: "Expected") -> Check:
    """Exactly one BOS, or none where the run's texts have none: before a text, and in every rendered conversation.

    A conversation is counted as llama.cpp's own chat commands begin it: where the file asks for a BOS and the template
    writes one too, they take the template's away.
    """
    bos, adds = engine.facts.bos, engine.facts.add_bos
    if bos is None:
        return Check(BOS, "skipped", "the vocabulary has no BOS")
    text = engine.tokenize(b"a", add_special=True, parse_special=False).tolist()
    if expected.adds_bos is not None and text.count(bos) != int(expected.adds_bos):
        return Check(
            BOS,
            "fail",
            f"a text begins with {text.count(bos)} BOS in the file, with {int(expected.adds_bos)} in the run",
        )
    counts = {}
    for prompt in expected.prompts:
        if prompt.failed is None and prompt.given is not None:
            ids = engine.tokenize(prompt.given.encode(), add_special=False, parse_special=True).tolist()
            written = next((k for k, token in enumerate(ids) if token != bos), len(ids))
            counts[prompt.name] = max(written, 1) if adds else written
    several = [f"{name} begins with {count} BOS" for name, count in counts.items() if count > 1]
    if several:
        return Check(BOS, "fail", f"{'; '.join(several)}, expected one")
    every = sorted(set(counts.values()))
    chats = f", a conversation with {' or '.join(map(str, every))}" if every else ""
    return Check(BOS, "pass", f"a text begins with {text.count(bos)} BOS{chats}")


def _compare(engine: "Engine", prompt: "Prompt", text: str | None) -> str | None:
    """What is wrong with a conversation's text or ids; None where nothing is. No text: MiniJinja does not render it."""
    if text is not None and text != prompt.text:
        return _first_difference(text, prompt.text)
    if prompt.given is None:
        return None
    ids = engine.tokenize(prompt.given.encode(), add_special=False, parse_special=True).tolist()
    return None if ids == list(prompt.ids) else difference(prompt.given, ids, prompt.ids)


def _first_difference(text: str, wanted: str) -> str:
    """Where two texts differ first, with what follows there."""
    both = zip(text, wanted, strict=False)
    first = next((k for k, (one, other) in enumerate(both) if one != other), min(len(text), len(wanted)))
    return f"at character {first} {text[first : first + ROOM]!r}, expected {wanted[first : first + ROOM]!r}"


def _special(engine: "Engine") -> dict[str, str]:
    """BOS and EOS as llama.cpp gives them to a template, by the file's ids; it gives no other special token."""
    texts, facts = engine.texts(), engine.facts
    tokens = {"bos_token": facts.bos, "eos_token": facts.eos}
    return {name: texts[token].decode("utf-8", "replace") for name, token in tokens.items() if token is not None}
