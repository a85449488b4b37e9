"""`sdcore bench`: every network is timed, and what its ops took adds up."""

import json

import pytest

import tiny_models
from sdcore import _core
from sdcore.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return str(tiny_models.save_folder(tiny_models.PLAIN, folder / "plain"))


def test_profile_accounts_for_the_time(model, capsys):
    argv = ["bench", "-m", model, "-W", "64", "-H", "64", "--steps", "2", "-t", "2"]
    assert main([*argv, "--profile", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    networks = {network["name"]: network for network in facts["networks"]}
    assert set(networks) == {"text_encoder", "unet", "vae decoder"}
    # Three steps of PNDM, whose second one is evaluated twice.
    assert (networks["unet"]["calls"], networks["unet"]["batch"]) == (4, 2)
    for network in networks.values():
        ops = {op["op"]: op for op in network["ops"]}
        assert sum(op["share"] for op in ops.values()) <= 1.0
        linear = [op for name, op in ops.items() if name.startswith("linear")]
        assert linear and all(op["per_second"] > 0 for op in linear)
        for op in linear:
            kind = op["op"].partition(" ")[2] or network["dtype"]
            rates = [r for name, r in facts["roofline"].items() if name.endswith((kind, "f32"))]
            assert op["share_of_peak"] == pytest.approx(op["per_second"] / max(rates))
        assert sum(op["seconds"] for op in ops.values()) < sum(
            (network["first_seconds"], network["seconds"] * network["calls"])
        )
    assert facts["peak_memory_bytes"] > 1 << 20


def test_text_names_networks_and_hides_ops(model, capsys):
    assert main(["bench", "-m", model, "-W", "64", "-H", "64", "--steps", "1"]) == 0
    text = capsys.readouterr().out
    assert "vae decoder" in text and "peak memory" in text
    assert "group_norm" not in text and "measured" not in text


def test_nothing_to_measure_is_bad_usage(model, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "-m", model, "--steps", "0"])
    assert stopped.value.code == 2
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err


def test_roofline_has_every_level():
    limits = _core.kernels.roofline(1)
    levels = {name.split()[0] for name in limits} - {"memory"}
    # AVX-512 BF16 and VNNI are named for the registers, as their f32 neighbour is.
    expected = {isa if isa == "avx2_vnni" else isa.split("_")[0] for isa in _core.supported_isas()}
    assert levels == expected
    assert all(rate > 1e8 for rate in limits.values())
