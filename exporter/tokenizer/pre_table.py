r"""llama.cpp's pre-tokenizers: the structure in tokenizer.json that each name cuts like.

A row's first name is the one written; the names behind it cut in the same way in llama.cpp (their regular expressions
stand in its src/llama-vocab.cpp) and are kept for ``--pre`` and for families that are known by one of them. What else
differs between such names (BOS, ``clean_up_tokenization_spaces``) has keys or does not touch token ids.

``proof`` says what a row rests on: a real tokenizer or llama.cpp's vectors of one (the name of its folder or
vocabulary), or llama.cpp's regular expressions alone. Either way a test gives llama.cpp a vocabulary that merges across
every border, so that a row with a wrong border turns red.
"""

from __future__ import annotations

from dataclasses import dataclass

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{suffix}"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{suffix}"
)
A_TO_Z = (  # what llama.cpp makes of CASED: upper and lower case of A to Z only, no combining marks
    r"[^\r\n\p{L}\p{N}]?((?=[{letters}])([^a-z]))*((?=[{letters}])([^A-Z]))+{suffix}"
    r"|[^\r\n\p{L}\p{N}]?((?=[{letters}])([^a-z]))+((?=[{letters}])([^A-Z]))*{suffix}"
)
ANY_CASE = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+{suffix}"  # the same where it takes \p{Lu} for \p{L}
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES

ALL_GAPS = ", keeping what matches"  # the expression matches every character, so it cuts as "isolated" does
DIGITS = "digits one by one"
BYTES = "bytes"
GPT2 = "bytes, cut as in GPT-2"
GPT2_WORDS = r"split '(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
THREES = r"split \p{N}{1,3}"
HAN = "split [一-龥ࠀ-一가-퟿]+"
HAN_NO_SPACE = r"split [[一-龥ࠀ-一가-퟿]&&[^\s]]+"  # llama.cpp compares white space as one ASCII character
KANA = "split [一-龥\u3040-ゟ\u30a0-ヿ]+"
STOPS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+".replace('\\"', '"')
SYMBOLS = r"| ?[\p{P}\p{S}]+"
MARKS = "split " + STOPS + SYMBOLS + r"[\r\n]*|" + SPACES
LINES = r"split [^\n]+|[\n]+"
SENTENCE = r"split  ?[^(\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001 - full-width marks

LLAMA3 = rf"split {SUFFIX}|{WORDS}|\p{{N}}{{1,3}}|{REST}"
QWEN2 = rf"split {SUFFIX}|{WORDS}|\p{{N}}|{REST}"
QWEN35 = (
    rf"split {SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
)


def _cased(words: str, suffix: str, digits: str) -> str:
    return "split " + words.replace("{suffix}", suffix) + f"|{digits}|{SLASHED}"


ENDING = SUFFIX + "?"
TEKKEN = _cased(CASED, "", r"\p{N}")
GPT4O = _cased(CASED, ENDING, r"\p{N}{1,3}")
NO_HAN = "&&[^\\p{Han}]"
KIMI = (
    r"split [\p{Han}]+|"
    + CASED.replace("{suffix}", ENDING).replace(r"\p{M}]", r"\p{M}" + NO_HAN + "]")
    + r"|\p{N}{1,3}|"
    + REST
)
KIMI_HAN = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{2F800}-\x{2FA1F}"
)
YOUTU = "split [가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ\u30a0-ヿ]+"  # noqa: RUF001
AFMOE_SCRIPTS = (
    "split [一-鿿㐀-䶿豈-\ufaff\u3040-ゟ\u30a0-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+"
)
FROM_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
FROM_RIGHT_GLUED = r"split \P{N}*" + FROM_RIGHT  # llama.cpp leaves what stands before a number at its first digits
AYA_DIGITS = r"split \d{1,3}(?=(?:\d{3})*\b)"
BAILING = (
    r"split '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
CASCADE = "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-"  # noqa: RUF001
    "ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"  # noqa: RUF001
)

CASE_AND_MARKS = (
    "keeps combining marks out of words and knows case in A to Z only: 'नमस्ते', 'สวัสดี' or 'HÄUSER' become other tokens "
    "than in training"
)
NO_CASE = "does not cut words where lower case meets upper case: 'CamelCase' becomes other tokens than in training"


@dataclass(frozen=True)
class Pre:
    """One row: the steps of a pre-tokenizer and what is set beside them; None fits either way."""

    names: tuple[str, ...]
    steps: tuple[str, ...]
    proof: str = "its regular expressions"
    ignore_merges: bool | None = False
    nfc: bool | None = None
    engine: tuple[str, ...] = ()  # what llama.cpp does, where these are other steps
    limit: str | None = None  # what it then cannot; None: with merges of this structure the ids are the same

    @property
    def name(self) -> str:
        """The name that is written."""
        return self.names[0]


A_Z, A_Z_MARKS = A_TO_Z.replace("{letters}", r"\p{L}"), A_TO_Z.replace("{letters}", r"\p{L}\p{M}")
DIGITS_WORDS = ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2")
GPT2_NAMES = (
    *(
        "gpt-2",
        "phi-2",
        "jina-es",
        "jina-de",
        "gigachat",
        "jina-v2-es",
        "jina-v2-de",
        "a.x-4.0",
        "mellum",
        "modern-bert",
    ),
    *("exaone4", "jais", "trillion", "granite-docling", "jina-v1-en", "jina-v2-code", "roberta-bpe"),
)
LLAMA3_NAMES = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    *("glm4", "glm5"),
)
QWEN2_NAMES = (
    *("qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"),
)

TABLE = (
    Pre(LLAMA3_NAMES, (LLAMA3, BYTES), "llama3_2, ggml-vocab-llama-bpe", ignore_merges=True),
    Pre(("dbrx", "smaug-bpe", "chatglm-bpe"), (LLAMA3, BYTES), "olmo2_dolma2"),
    Pre(QWEN2_NAMES, (QWEN2, BYTES), "qwen2_5, qwen3, ggml-vocab-qwen2"),
    Pre(("qwen35",), (QWEN35, BYTES), "ggml-vocab-qwen35"),
    Pre(
        ("tekken",),
        (TEKKEN, BYTES),
        "mistral_nemo",
        ignore_merges=True,
        engine=(_cased(A_Z, "", r"\p{N}"), BYTES),
        limit=CASE_AND_MARKS,
    ),
    Pre(
        ("gpt-4o", "kanana2", "talkie", "minimax-m2"),
        (GPT4O, BYTES),
        engine=(_cased(A_Z, ENDING, r"\p{N}{1,3}"), BYTES),
        limit=CASE_AND_MARKS,
    ),
    Pre(
        ("llama4",),
        (GPT4O, BYTES),
        ignore_merges=True,
        engine=(_cased(A_Z, ENDING, r"\p{N}{1,3}"), BYTES),
        limit=CASE_AND_MARKS,
    ),
    Pre(
        ("granite-embed-multi-97m",),  # after llama4, which is what such files are for older releases too
        (GPT4O, BYTES),
        ignore_merges=True,
        engine=(_cased(A_Z_MARKS, ENDING, r"\p{N}{1,3}"), BYTES),
        limit=CASE_AND_MARKS.replace("keeps combining marks out of words and ", "").replace("'नमस्ते', 'สวัสดี' or ", ""),
    ),
    Pre(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), (THREES, KANA, MARKS, BYTES), "deepseek_v3"),
    Pre(
        ("deepseek-coder",),
        (r"split [\r\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", HAN, DIGITS, BYTES),
        "ggml-vocab-deepseek-coder",
        engine=(r"split [\r\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", HAN_NO_SPACE, DIGITS, BYTES),
    ),
    Pre(
        ("deepseek-llm",),
        (
            r"split [\r\n]",
            rf"split \s?[{DEEPSEEK_LETTERS}]+",
            r"split \s?[!-/:-~！-／：-～‘-‟　-。]+",  # noqa: RUF001
            r"split \s+$",
            HAN,
            DIGITS,
            BYTES,
        ),
        "ggml-vocab-deepseek-llm",
        engine=(
            r"split [\r\n]",
            rf"split \s?[{DEEPSEEK_LETTERS}]+",
            r"split \s?[[!-/:-~！-／：-～‘-‟　-。]&&[^\s]]+",  # noqa: RUF001
            r"split \s+$",
            HAN_NO_SPACE,
            r"split \p{N}+",
            BYTES,
        ),
    ),
    Pre(("command-r",), (DIGITS, GPT2), "command_r_plus, ggml-vocab-command-r", nfc=True),
    Pre(DIGITS_WORDS, (DIGITS, GPT2), "SmolLM2, ggml-vocab-starcoder, ggml-vocab-refact", nfc=False),
    Pre(("olmo", "mpt"), (GPT2,), "ggml-vocab-mpt", nfc=True),
    Pre(GPT2_NAMES, (GPT2,), "ggml-vocab-gpt-2", nfc=False),
    Pre(
        ("falcon",),
        ("punctuation", GPT2, "digits together", "split [0-9][0-9][0-9]"),
        "ggml-vocab-falcon",
        engine=("punctuation", GPT2_WORDS, "split [0-9][0-9][0-9]", BYTES),
    ),
    Pre(("default",), (r"split [\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"split \p{N}+", "split [0-9][0-9][0-9]", BYTES)),
    Pre(("bloom", "poro-chat", "gpt3-finnish"), (SENTENCE, BYTES)),
    Pre(("viking",), (SENTENCE, DIGITS, BYTES)),
    Pre(
        ("jais-2",),
        (
            (
                rf"split {SUFFIX}|{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
                rf"|{CASCADE}|\s{{1,2}}(?!\S)|\s{{1}}"
            ),
            BYTES,
        ),
    ),
    Pre(("spark2_5",), (THREES, KANA, "split " + STOPS + SYMBOLS + r"|[\r\n]|\s+(?!\S)|\s+", DIGITS, BYTES)),
    Pre(
        ("youtu",),
        (YOUTU, _cased(CASED, ENDING, r"\p{N}"), BYTES),
        ignore_merges=True,
        engine=(YOUTU, _cased(ANY_CASE, ENDING, r"\p{N}"), BYTES),
        limit=NO_CASE,
    ),
    Pre(
        ("tiny_aya", "cohere2moe"),
        (AYA_DIGITS, GPT4O, BYTES),
        engine=(FROM_RIGHT_GLUED, _cased(ANY_CASE, ENDING, r"\p{N}{1,3}"), BYTES),
        limit=NO_CASE + "; spaces before numbers and digits before letters may too",
    ),
    Pre(
        ("kimi-k2",),
        (KIMI, BYTES),
        engine=(
            rf"split [{KIMI_HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{KIMI_HAN}]]+{ENDING}|\p{{N}}{{1,3}}|{REST}",
            BYTES,
        ),
        limit=NO_CASE + "; nor does it keep combining marks in words",
    ),
    Pre(("superbpe",), (r"split \p{N}+", r"split (?=([0-9]{3})+(?![0-9]))", BYTES)),
    Pre(("bailingmoe", "bailingmoe2", "llada-moe"), (BAILING, BYTES)),
    Pre(("seed-coder",), (rf"split {SUFFIX}|{WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}", BYTES)),
    Pre(("ufakzeka",), (rf"split {WORDS}|\p{{N}}|{REST}", BYTES)),
    Pre(
        ("afmoe",),
        ("split " + FROM_RIGHT, AFMOE_SCRIPTS, MARKS, BYTES),
        engine=(FROM_RIGHT_GLUED, AFMOE_SCRIPTS, MARKS, BYTES),
        limit="leaves what stands before a number in one piece with its first digits: several spaces before a number "
        "become other tokens than in training",
    ),
    Pre(("laguna",), (LINES, QWEN2, BYTES)),
    Pre(
        ("exaone-moe",),
        (
            (
                rf"split {SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            ),
            BYTES,
        ),
    ),
    Pre(("minicpm5",), (THREES, rf"split {SUFFIX}|{WORDS}|\p{{N}}+|{REST}", BYTES), ignore_merges=True),
    Pre(
        ("chameleon",),
        (
            "split <sentinel:[0-9]+>",
            "split (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"split ([\t\n]|    |  )",
            DIGITS,
            "punctuation marks one by one",
            GPT2,
        ),
    ),
)

# Not byte-level: their words are raw text, in which a space is "▁". The value is the tokenizer.ggml.model beside it.
RAW = {"gemma4": "gemma4", "granite-embed-multi-311m": "gpt2", "sarvam-moe": "gpt2"}
NO_ROW = {"whitespace": "words at white space, raw text: an encoder's (Jina embeddings v2 zh), which is not exported"}
NAMES = tuple(sorted({name for row in TABLE for name in row.names} | {*RAW, *NO_ROW}))
