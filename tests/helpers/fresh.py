"""The Python of model cards, run as a stranger would: in a new process, in the folder that it is about."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

_SCRIPT = """
import json, os, sys
jobs, batch, without_fedpeft = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
if without_fedpeft:
    sys.modules["fedpeft"] = None  # importing it, or anything of it, fails
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
batch, logits = load_file(batch), {}
for name, (folder, code) in jobs.items():
    os.chdir(folder)
    names = {}
    exec(code, names)
    with torch.no_grad():
        output = names["model"](**batch)
    logits[name] = (output if isinstance(output, torch.Tensor) else output.logits).contiguous()
save_file(logits, sys.argv[4])
"""


def read_code(folder, base):
    """The one block of Python in a folder's card, with the base model at `base`."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (Path(folder) / "README.md").read_text(), re.M | re.S)
    return code if base is None else re.sub(r"^BASE = .*$", f"BASE = {json.dumps(str(base))}", code, flags=re.M)


def compute_logits(jobs, batch, folder, without_fedpeft):
    """The logits of a batch by name, from a new process; `jobs` are folders and code by name, run one by one."""
    save_file({name: tensor.contiguous() for name, tensor in batch.items()}, folder / "batch.safetensors")
    arguments = [json.dumps({name: [str(path), code] for name, (path, code) in jobs.items()})]
    arguments += [folder / "batch.safetensors", without_fedpeft, folder / "logits.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "logits.safetensors")
