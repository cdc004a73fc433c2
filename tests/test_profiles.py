"""Profiles are read as written, and what is wrong in one is refused by file, rule and field."""

import re
from pathlib import Path

import pytest

from exporter.errors import ProfileError
from exporter.profiles import Facts, Profile, choose_types, load_profile, profile_names
from exporter.profiles.read import NAMES, RULE_FIELDS

ROOT = Path(__file__).resolve().parents[1]
LEVELS = profile_names()


def test_levels_are_listed_from_most_to_fewest_bits() -> None:
    assert (
        *("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0"),
        *("q4_k_m", "q4_k_s", "q4_0", "mxfp4_moe", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
    ) == LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_called_as_its_file_and_as_llamacpp_calls_it(level: str) -> None:
    profile = load_profile(level)
    assert profile.name == level
    assert profile.file_type.removeprefix("MOSTLY_").removeprefix("ALL_") == level.upper()
    assert profile.text == (ROOT / "quant_profiles" / f"{level}.toml").read_text(encoding="utf-8")
    assert load_profile(level.upper()) == profile
    assert load_profile(str(ROOT / "quant_profiles" / f"{level}.toml")) == profile


# Profiles of one's own.

MINE = """
name = "mine"
file_type = "MOSTLY_Q4_K_M"
default = "Q4_K"
"""


def facts(arch: str) -> Facts:
    return Facts(arch, layers=16, heads=8, kv_heads=4, experts=0, tied=False)


def shapes() -> dict[str, tuple[int, ...]]:
    """A dense model of 16 layers, all of its rows of 256."""
    stems = ("attn_q", "ffn_down")
    blocks = {f"blk.{i}.{stem}.weight": (2, 256) for i in range(16) for stem in stems}
    return {**blocks, "output.weight": (2, 256)}


def write_profile(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def mine(folder: Path, *rules: str) -> Profile:
    """The profile MINE with these rules: the lines below [[rule]]."""
    return load_profile(write_profile(folder, MINE + "".join(f"[[rule]]\n{rule}\n" for rule in rules)))


def test_all_conditions_must_fit_and_the_first_rule_wins(tmp_path: Path) -> None:
    profile = mine(
        tmp_path,
        'tensors = ["blk.*.ffn_down.weight"]\nlayers = "first_eighth"\narch = ["qwen3"]\ntype = "Q8_0"',
        'tensors = ["blk.[01].ffn_*.weight"]\nexperts = 0\ngqa_min = 2\ntype = "Q6_K"',
        'layers = "first_two"\ntype = "Q5_K"',
        'tensors = ["*.weight"]\ngqa_min = 3\ntype = "F16"',
    )
    llama = {name: choice.type for name, choice in choose_types(profile, shapes(), facts("llama")).items()}
    qwen = {name: choice.type for name, choice in choose_types(profile, shapes(), facts("qwen3")).items()}
    assert [llama[f"blk.{i}.ffn_down.weight"] for i in (0, 1, 2)] == ["Q6_K", "Q6_K", "Q4_K"]
    assert [qwen[f"blk.{i}.ffn_down.weight"] for i in (0, 1, 2)] == ["Q8_0", "Q8_0", "Q4_K"]
    assert [llama[f"blk.{i}.attn_q.weight"] for i in (0, 1, 2)] == ["Q5_K", "Q5_K", "Q4_K"]
    assert llama["output.weight"] == "Q4_K"


def test_a_rule_may_name_one_late_layer(tmp_path: Path) -> None:
    assert mine(tmp_path, 'tensors = ["blk.79.attn_v.weight"]\ntype = "F16"').rules[0].type == "F16"


WRONG = {
    "not TOML": ("name = ", r"mine\.toml: this is not TOML: Invalid value"),
    "no default": ('name = "mine"\nfile_type = "MOSTLY_Q4_0"', r"mine\.toml: the field `default` is missing"),
    "no file type": ('name = "mine"\ndefault = "Q4_0"', r"mine\.toml: the field `file_type` is missing"),
    "unknown file type": (MINE.replace("Q4_K_M", "Q4_K_X"), r"field `file_type`: 'MOSTLY_Q4_K_X' is unknown\. Did you"),
    "unknown default": (MINE.replace('"Q4_K"', '"q4_k"'), r"mine\.toml: field `default`: 'q4_k' is unknown\. .*Q4_K"),
    "unknown top field": (MINE + "rules = 1", r"mine\.toml: there is no field `rules`\. Did you mean rule\?"),
    "capitals": (MINE.replace("mine", "Mine"), r"field `name`: 'Mine' is not a name of small letters"),
    "a level's name": (MINE.replace("mine", "q4_k_m"), r"field `name`: 'q4_k_m' is a built-in level"),
    "rule no table": (MINE + "rule = 1", r"mine\.toml: field `rule`: 1 is not \[\[rule\]\] tables"),
}
WRONG_RULES = {
    "unknown field": (
        'tensor = ["output.weight"]\ntype = "F16"',
        r"there is no field `tensor`\. Did you mean tensors\?",
    ),
    "unknown type": ('tied = true\ntype = "Q4_KM"', r"field `type`: 'Q4_KM' is unknown\. Did you mean"),
    "unknown pattern": (
        'layers = "first_third"\ntype = "F16"',
        r"field `layers`: 'first_third' is unknown\. .*first_two",
    ),
    "unknown class": ('size_class = "7B"\ntype = "F16"', r"field `size_class`: '7B' is unknown\. .*Known: 70B"),
    "unknown arch": ('arch = ["lama"]\ntype = "F16"', r"field `arch`: 'lama' is unknown\. Did you mean .*llama"),
    "text, not list": ('tensors = "output.weight"\ntype = "F16"', r"`tensors`: 'output.weight' is not a list of texts"),
    "empty list": ('tensors = []\ntype = "F16"', r"field `tensors`: \[\] is not a list of texts"),
    "not a number": ('experts = true\ntype = "F16"', r"field `experts`: True is not a whole number"),
    "not a switch": ('tied = 1\ntype = "F16"', r"field `tied`: 1 is not true or false"),
    "no type": ("tied = true", r"the field `type` is missing"),
    "no condition": ('type = "F16"', r"it has no condition"),
    "unknown tensor": (
        'tensors = ["blk.*.atn_v.weight"]\ntype = "F16"',
        r"`tensors`: 'blk\.\*\.atn_v\.weight' fits no tensor",
    ),
    "a norm": ('tensors = ["*_norm.weight"]\ntype = "F16"', r"'\*_norm\.weight' fits no tensor that is ever quantized"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_profile_is_refused_by_file_and_field(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    with pytest.raises(ProfileError, match=message):
        load_profile(write_profile(tmp_path, text))


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule_is_refused_by_file_rule_and_field(name: str, tmp_path: Path) -> None:
    rule, message = WRONG_RULES[name]
    with pytest.raises(ProfileError, match=r"mine\.toml: rule 2: .*" + message):
        mine(tmp_path, 'tied = true\ntype = "Q6_K"', rule)


def test_an_unknown_level_names_the_nearest_and_all(tmp_path: Path) -> None:
    with pytest.raises(
        ProfileError, match=r"no level 'q4_km'\. Did you mean .*q4_k_m.* Known: f32, bf16, .*, q2_k\. .*toml"
    ):
        load_profile("q4_km")
    with pytest.raises(ProfileError, match=r"absent\.toml: the profile cannot be read"):
        load_profile(str(tmp_path / "absent.toml"))


def test_the_example_of_the_guide_is_a_profile(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "add-a-profile.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert example
    assert load_profile(write_profile(tmp_path, example[1])).rules
    for word in (*NAMES["layers"], *NAMES["size_class"], *NAMES["type"], *RULE_FIELDS):
        assert f"`{word}`" in guide, word
