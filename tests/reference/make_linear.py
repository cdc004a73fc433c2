"""Record how many modules of each kind transformers 4 gives to bitsandbytes, of each tiny model, in `linear.json`.

Run by hand, once for each new tiny model; the tests only read the file:

    python tests/reference/make_linear.py --python VENV/bin/python

VENV is an environment with torch and transformers 4.57.6. Models that it does not know are left out.
They are the linear modules, and GPT-2's Conv1D, but for those that transformers leaves out unless told which.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny import TINY, make

INSIDE = """
import json, re, sys
from collections import Counter
from pathlib import Path
import torch, transformers
from transformers.integrations.bitsandbytes import get_keys_to_not_convert
from transformers.pytorch_utils import Conv1D
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        kind = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
        with torch.device("meta"):
            model = kind(config)
    except (ValueError, KeyError, AttributeError, ImportError):
        continue
    kept = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    linear = [name for name, one in model.named_modules() if isinstance(one, (torch.nn.Linear, Conv1D))]
    linear = [name for name in linear if name.rpartition(".")[2] not in kept]
    linear = [name for name in linear if not any(f"{key}." in name or key == name for key in kept)]
    found[folder.name] = dict(Counter(re.sub(r"(?<=\\.)\\d+(?=\\.|$)", "{i}", name) for name in linear))
print(json.dumps(found))
"""


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="of the environment with transformers 4")
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as place:
        for name in TINY:
            make(name, Path(place) / name)
        command = [python, "-W", "ignore", "-c", INSIDE, place]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(told.stdout.splitlines()[-1])
    file = Path(__file__).with_name("linear.json")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(modules)}" for name, modules in found.items())
    file.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
