"""Exported folders: each client's own rank, merged factors and masked rows; a damaged or foreign one is one line."""

import shutil

from helpers.exports import RANKS
from helpers.mistakes import require_line
from peft import LoraConfig, PeftConfig

from fedpeft.runs.export import read_card
from fedpeft.runs.predict import predict


def test_folders_hold_each_clients_own_rank_and_only_plain_lora(exported):
    folder, _ = exported
    configs = {name: PeftConfig.from_pretrained(str(folder / "clients" / name / "adapter")) for name in RANKS}
    assert {type(config) for config in configs.values()} == {LoraConfig}
    assert (configs["site0"].r, configs["site2"].r) == (1, 3)
    assert configs["site1"].r == 6 and sorted(configs["site1"].rank_pattern.values())[-2:] == [2, 6]


def test_a_damaged_folder_is_one_line_before_a_model_is_loaded(exported, tmp_path, monkeypatch):
    folder, _ = exported
    adapter = folder / "clients/site1/adapter"
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    card = (adapter / "fedpeft.json").read_text()
    monkeypatch.setattr("fedpeft.runs.load_exported.load_model", None)
    for name, content in (
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", weights[:-1]),
        ("adapter_config.json", None),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b'{"peft_type": "NONE"}'),
        ("fedpeft.json", None),
        ("fedpeft.json", b"not JSON"),
        ("fedpeft.json", b"\xff\xfe"),
        ("fedpeft.json", b"[]"),
        ("fedpeft.json", b"{}"),
        ("fedpeft.json", card.replace('"source"', '"sauce"').encode()),
        ("fedpeft.json", card.replace('"source"', '"\\u001b[2J"').encode()),
        ("fedpeft.json", b"[" * 100_000),
        ("fedpeft.json", b" " * (5 * 2**20)),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "clients", copy / "clients")
        file = copy / "clients/site1/adapter" / name
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        require_line(lambda: predict(copy, "site1", ["a film"]), "client 'site1' is incomplete or damaged", name[:7])  # noqa: B023


def test_a_folder_without_adapters_says_why(exported, tmp_path):
    folder, _ = exported
    require_line(lambda: predict(tmp_path / "none", "site0", ["a film"]), f"no run at {tmp_path / 'none'}")
    require_line(
        lambda: predict(folder, "site9", ["a film"]), "no adapter of client 'site9'", "clients: site0, site1, site2"
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "experiment.yaml").write_text("")
    require_line(lambda: predict(run, "site0", ["a film"]), "is not finished", "fedpeft resume")
    (run / "result.json").write_text('{"test": {}}')
    require_line(lambda: predict(run, "site0", ["a film"]), "`fedpeft compare` exports none; `fedpeft run` does")
    (run / "checkpoint.safetensors").write_bytes(b"")
    require_line(lambda: predict(run, "site0", ["a film"]), "clients is missing", "fedpeft resume")


def test_a_client_is_one_of_the_runs_own_and_no_path(exported):
    folder, _ = exported
    shutil.copytree(folder / "clients/site0/adapter", folder / "adapter")  # what ../.. would read
    shutil.copytree(folder / "clients/site0", folder / "clients/.site0.tmp")  # left by a process that was killed
    for client in ("../..", "../clients/site0", "site0/../site0", "/", "", ".", ".site0.tmp", "site0/"):
        require_line(lambda: read_card(folder, client), f"client {client!r}", "clients: site0, site1, site2")  # noqa: B023
