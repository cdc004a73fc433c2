# ruff: noqa: RUF001 - look-alike letters are what the sample is for
"""Short texts of many kinds, and the ids that llama.cpp must give for them: the proof of every export."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

from exporter.errors import TokenizerError
from exporter.tokenizer.cuts import cuts_alike
from exporter.tokenizer.special import library_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from exporter.tokenizer import Tokenizer

SAMPLE: tuple[str, ...] = (
    "",
    " ",
    "    ",
    "\t",
    "\n",
    "\n\n\n",
    " \t \n  \n\n   end",
    "a" + " " * 33 + "b",
    "\t\tindented\r\n\r\nby tabs\r",
    "The quick brown fox jumps over the lazy dog.",
    " a leading space",
    "a trailing space ",
    "two  spaces,   three spaces",
    "I'm sure they'll say we've won; it's HERS, YOU'RE late, I'D go.",
    "'tis ''quoted'' \"text\" — with “curly” ones… and dashes–like–these",
    "CamelCaseWords, snake_case_words, SCREAMING_SNAKE, kebab-case-words",
    "0 1 12 123 1234 12345 123456789 3.14159 1,000,000 1e-9 0x1F 50% ½ ² Ⅷ",
    "٠١٢٣٤٥٦٧٨٩ ०१२३४५ 一二三",
    "2026-11-22T12:00:00Z, +49 30 123-45, v1.2.3-rc4, 10:45",
    "https://example.org/path/to/file.html?query=1&other=two#part",
    "name@example.org; C:\\Users\\me\\file.txt; /usr/local/bin",
    "def f(x: int) -> int:\n    if x > 0:\n        return x ** 2\n    return -x\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } // total\n",
    '{"key": [1, 2.5, null, true], "text": "a\\nb\\u00e9"}',
    "SELECT name FROM users WHERE id != 3 AND age >= 18;",
    "<div class='box'><b>bold</b> &amp; <i>italic</i></div>",
    "\\frac{a}{b} = \\sum_{i=1}^{n} x_i^2, E = mc², ∀ε>0 ∃δ: |x|<δ ⇒ ∇f≈0",
    "!!! ??? ... ,,, ;;; ::: ((())) [[[]]] {{{}}} --- === +++ ***",
    "# Title\n\n- one\n- two\n\n```python\nprint('hi')\n```\n",
    "Größe, Übermut, Straße, ÄÖÜ äöü ẞ",
    "L'été où j'étais à l'école, garçon, œuvre",
    "¿Qué pasó, señor? ¡Mañana será otro día!",
    "Não há coração que não sinta",
    "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Þetta er íslenska, og það er satt",
    "İstanbul'da ığdır ağacı; DİYARBAKIR",
    "Tiếng Việt có nhiều dấu: ngữ, được, những",
    "Съешь ещё этих мягких французских булок",
    "Нещо на български, дещо українською: їжак",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "Բարեւ, աշխարհ; გამარჯობა მსოფლიო",
    "שלום עולם, מה שלומך? נִקּוּד",
    "مرحبا بالعالم، كيف حالك؟ اللُّغَةُ",
    "سلام دنیا، حالت چطور است؟ می‌روم",
    "नमस्ते दुनिया, क्या हाल है? क्षत्रिय",
    "আমি বাংলায় গান গাই",
    "வணக்கம் உலகம்; నమస్కారం; ನಮಸ್ಕಾರ; ഹലോ",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "ສະບາຍດີ; កាន់តែពិសេសអាច; မင်္ဂလာပါ",
    "ሰላም ለዓለም; ᚠᛇᚻ; ⵣ",
    "我想在苹果工作，好吗？中文没有空格。",
    "繁體中文與漢字：龍、龜、鬱",
    "日本語のテキスト、カタカナとひらがな。ｶﾅ",
    "안녕하세요 세계, 한국어 문장입니다.",
    "ｆｕｌｌｗｉｄｔｈ ＴＥＸＴ １２３",
    "😀 🚀🚀 👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ✅ ☕️",
    "é à ü ñ ọ́ (composed) e\u0301 a\u0300 u\u0308 n\u0303 (decomposed)",
    "q\u0307\u0323 zalgo z\u0335\u0321\u034c, \u1100\u1161\u11a8 jamo",
    "zero\u200bwidth, soft\u00adhyphen, no\u00a0break, \u3000wide, \u2028line",
    "ﬁ ﬂ ligatures, ℌ ℕ ™ ® ₿ € £ ¥ °C µm",
    "rare: 𐍈 𝔘𝔫𝔦 𓀀 🜚 \U0001fae8 \ue000 \ufffd",
    "mixed: Hello, мир! 你好 world 🌍 مرحبا 123abc456",
    "aaaaaaaaaaaaaaaa bbbb abababab xxXXxx",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
)


def prepared(texts: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """Return the texts that can be compared, as llama.cpp is to be given them.

    They are in NFC where the tokenizer itself normalizes. Left out are texts that llama.cpp's pre-tokenizer of this
    name is known to cut in another way; a warning of the tokenizer says so.
    """
    pre = str(tokenizer.metadata.get("tokenizer.ggml.pre", ""))
    forms = [unicodedata.normalize("NFC", text) if tokenizer.normalizes else text for text in texts]
    return [text for text in forms if cuts_alike(pre, text)]


def expected_ids(tokenizer_json: Path, texts: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids that llama.cpp must give for each of the `prepared` texts (special tokens parsed, none added).

    Raises:
        TokenizerError: A text holds a token that has no row in the embedding.
    """
    return ids_of(reference(tokenizer_json, tokenizer), prepared(texts, tokenizer), tokenizer)


def reference(tokenizer_json: Path, tokenizer: Tokenizer) -> Backend:
    """Return the tokenizer whose ids llama.cpp must give: that of tokenizer.json.

    Where GGUF cannot say what it does to the space in front of a text (Metaspace, reported among the warnings), it is a
    tokenizer that does what the GGUF says.
    """
    with library_errors("it"):
        backend = _backend(tokenizer_json, tokenizer.split_off)
    backend.no_truncation()  # saved by trainers with the tokenizer
    backend.no_padding()
    if isinstance(backend.model, models.BPE):
        backend.model.dropout = None  # a setting for training, at random; a warning of the tokenizer says so
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = None
        prefix = tokenizer.metadata.get("tokenizer.ggml.add_space_prefix", True)
        first = [normalizers.Prepend("▁")] if prefix else []
        backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    return backend


def ids_of(backend: Backend, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return a `reference`'s ids of `prepared` texts.

    Raises:
        TokenizerError: A text holds a token that has no row in the embedding.
    """
    encoded = [encoding.ids for encoding in backend.encode_batch(list(texts), add_special_tokens=False)]
    rows = len(tokenizer.metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    for text, ids in zip(texts, encoded, strict=True):
        if max(ids, default=0) >= rows:
            raise TokenizerError(
                f"{text[:60]!r} holds token {max(ids)}, but the embedding has {rows} rows: use another text."
            )
    return encoded


def _backend(path: Path, split_off: Mapping[str, int]) -> Backend:
    """Load tokenizer.json, with the added tokens that only other files name."""
    if not split_off:
        return Backend.from_file(str(path))
    spec = json.loads(path.read_text(encoding="utf-8"))
    new = {token: text for text, token in split_off.items()}
    spec["model"]["vocab"] = {new.get(token, text): token for text, token in spec["model"]["vocab"].items()}
    flags = dict.fromkeys(("normalized", "lstrip", "rstrip", "single_word"), False)
    spec["added_tokens"] += [{"id": token, "content": new[token], "special": True, **flags} for token in sorted(new)]
    return Backend.from_str(json.dumps(spec))
