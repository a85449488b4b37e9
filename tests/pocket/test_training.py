"""The stages of the pocket model's training run, one after another, into a file that sdcore draws
with, and go on from that file. Two steps each: what is shown is that the stages fit together."""

import importlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from transformers import CLIPVisionModelWithProjection

import config
import sdcore
import training
from sdcore import checkpoint, cli
from sdcore.image_io import read_png_parameters
from sdcore.pipelines import loading


def run(stage, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [stage, *map(str, arguments)])
    importlib.import_module(stage).main()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training, with the packed model in it."""
    out = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.UNET, "block_out_channels", (16, 32, 32))
        small = ("--out", out, "--steps", 2, "--batch", 4, "--device", "cpu")
        run("tokens", patch, "--out", out, "--steps", 300)
        run("train_vae", patch, *small)
        run("train_text", patch, *small, "--loaders", 1)
        run("cache", patch, "--out", out, "--steps", 8, "--shard", 8, "--batch", 4)
        run("train_unet", patch, *small, "--workers", 2)
        run("pack", patch, "--out", out, "--to", out / "pocket.gguf")
        yield out


def test_the_packed_model_draws(trained):
    pipe = sdcore.DiffusionPipeline.from_single_file(trained / "pocket.gguf", dtype="f32")
    assert pipe.default_steps == 20
    assert pipe.default_guidance == 5
    out = pipe("a red circle", num_inference_steps=2, seed=1)
    assert out.images[0].size == (128, 128)


def test_the_packed_networks_are_those_that_were_trained(trained):
    pipe = sdcore.DiffusionPipeline.from_single_file(trained / "pocket.gguf", dtype="f32")
    random = np.random.default_rng(0)
    train_unet = importlib.import_module("train_unet")
    encoder, tokenizer = train_unet.load_encoder(trained)
    ids = tokenizer(["a red circle", ""])
    with torch.no_grad():
        hidden = encoder(torch.from_numpy(ids).long()).last_hidden_state
    close(pipe.text_encoder(pipe.tokenizer(["a red circle", ""])), hidden)

    unet = train_unet.UNet2DConditionModel(**config.UNET).eval()
    unet.load_state_dict(training.averages(trained, "unet"))
    x = random.standard_normal((2, 4, 16, 16)).astype(np.float32)
    with torch.no_grad():
        out = unet(torch.from_numpy(x), torch.tensor([700, 20]), hidden).sample
    close(pipe.unet(x, np.array([700, 20]), hidden.numpy()), out)

    vae = importlib.import_module("train_vae").AutoencoderKL(**config.VAE).eval()
    vae.load_state_dict(training.averages(trained, "vae"))
    with torch.no_grad():
        close(pipe.vae.decode(x), vae.decode(torch.from_numpy(x)).sample)

    cached = torch.load(trained / "cache" / "0000.pt", weights_only=True)["latents"].float()
    assert pipe.vae.config.scaling_factor * cached.std().item() == pytest.approx(1, rel=1e-4)


def close(out, reference):
    """Within the rounding of weights to float16."""
    reference = reference.numpy()
    assert np.linalg.norm(out - reference) <= 2e-3 * np.linalg.norm(reference)


def test_training_learns(trained, tmp_path, monkeypatch):
    """The loss of fixed noise falls by a third in 60 steps on eight pictures."""
    train_unet = importlib.import_module("train_unet")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    x, c, noise, t = next(
        train_unet.Cache(tmp_path / "cache").batches(
            32, torch.zeros(77, 128), np.random.default_rng(0)
        )
    )
    scheduler = train_unet.DDIMScheduler.from_config(config.SCHEDULER)

    def loss():
        unet = train_unet.UNet2DConditionModel(**config.UNET).eval()
        unet.load_state_dict(training.averages(tmp_path, "unet"))
        with torch.no_grad():
            out = unet(scheduler.add_noise(x, noise, t), t, c).sample
        return (out - scheduler.get_velocity(x, noise, t)).square().mean().item()

    before = loss()
    small = ("--out", tmp_path, "--batch", 8, "--device", "cpu")
    run("train_unet", monkeypatch, *small, "--steps", 60)
    assert loss() < 0.67 * before


def test_training_goes_on_from_its_checkpoint(trained, monkeypatch, capsys):
    before = training.averages(trained, "unet")["conv_out.weight"]
    small = ("--out", trained, "--batch", 4, "--device", "cpu")
    run("train_unet", monkeypatch, *small, "--steps", 3)
    assert "goes on from step 2" in capsys.readouterr().out
    assert not torch.equal(before, training.averages(trained, "unet")["conv_out.weight"])


def test_training_goes_on_from_the_packed_model(trained, tmp_path, monkeypatch):
    run("unpack", monkeypatch, "--out", tmp_path, "--from", trained / "pocket.gguf")
    for stage in ("vae", "text"):
        unpacked, packed = (training.averages(out, stage) for out in (tmp_path, trained))
        for name, weight in unpacked.items():
            if name == "embeddings.position_embedding.weight":
                weight = weight[:40]  # those that training saw
            torch.testing.assert_close(weight, packed[name][: len(weight)], rtol=1e-3, atol=1e-4)
    small = ("--out", tmp_path, "--steps", 1, "--batch", 2, "--device", "cpu")
    run("train_vae", monkeypatch, *small)
    run("train_text", monkeypatch, *small)
    assert (tmp_path / "merges.txt").read_text() == (trained / "merges.txt").read_text()


def test_the_decoder_learns_alone(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "vae.pt", tmp_path)
    words = ("--decoder", "--out", tmp_path, "--batch", 2, "--device", "cpu")
    for steps in (3, 4):  # from a run of the whole autoencoder, then from one of its own
        run("train_vae", monkeypatch, *words, "--steps", steps)
    before, after = (training.averages(folder, "vae") for folder in (trained, tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_a_seed_gives_the_same_batches():
    train_vae = importlib.import_module("train_vae")
    args = training.arguments("", steps=1, batch=2, rate=0).parse_args([])
    for loaders in (0, 2):
        args.loaders = loaders
        first, again, later = (
            next(training.batches(lambda random: train_vae.crops(2, random), args, step))
            for step in (0, 0, 7)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, later)


def test_muon_is_pytorch_s():
    torch.manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(24, 40))
    theirs = torch.nn.Parameter(mine.detach().clone())
    reference = torch.optim.Muon([theirs], 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    optimizer = training.Muon([mine], 1e-2)
    start = mine.detach().clone()
    for _ in range(3):
        mine.grad = torch.randn(24, 40)
        theirs.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    # Theirs computes in bfloat16.
    assert (mine - theirs).norm() <= 0.02 * (mine - start).norm()


def test_the_file_s_defaults_must_make_sense(trained, tmp_path):
    opened = sdcore.gguf.open(trained / "pocket.gguf")
    for key, value in (("steps", 0), ("steps", "many"), ("guidance_scale", -1.0)):
        metadata = {**opened.metadata, f"sdcore.default.{key}": value}
        sdcore.gguf.write(tmp_path / "bad.gguf", metadata, opened.tensors)
        with pytest.raises(sdcore.CheckpointError, match=f"sdcore.default.{key} must be"):
            sdcore.DiffusionPipeline.open(tmp_path / "bad.gguf")
    assert checkpoint.open(trained / "pocket.gguf").title == "Stable Diffusion 1.x"


def test_pocket_is_the_model_in_the_package(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "POCKET", trained / "pocket.gguf")
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "pocket.gguf", tmp_path / "copy.gguf")
    shipped = sdcore.DiffusionPipeline.from_pretrained("pocket", dtype="f32")
    own = sdcore.DiffusionPipeline.open(trained / "pocket.gguf", dtype="f32")
    a, b = (p("a star", num_inference_steps=1, seed=1, output_type="np") for p in (shipped, own))
    np.testing.assert_array_equal(a.images, b.images)
    assert shipped.lora_dir is None
    loras = trained / "loras"
    loras.mkdir()
    dirs = [
        sdcore.DiffusionPipeline.open(path).lora_dir for path in ("pocket", tmp_path / "copy.gguf")
    ]
    assert dirs == [loras, None]
    # What the user calls so goes first.
    (tmp_path / "pocket").mkdir()
    with pytest.raises(sdcore.CheckpointError, match="pocket"):
        sdcore.DiffusionPipeline.from_pretrained("pocket")


def test_the_command_draws_with_pocket_when_no_model_is_given(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loading, "POCKET", trained / "pocket.gguf")
    monkeypatch.chdir(tmp_path)
    words = ["txt2img", "a red circle", "--steps", "1", "-s", "1", "-o", "out.png"]
    assert cli.main(words) == 0
    assert "this is pocket, the small one inside sdcore" in capsys.readouterr().err
    assert "Model: pocket" in read_png_parameters(tmp_path / "out.png")
    monkeypatch.setattr(loading, "POCKET", tmp_path / "none.gguf")
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "no model given: name one with -m" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["lcm", "style"])
def test_loras_are_what_was_trained(trained, monkeypatch, kind):
    with monkeypatch.context() as patch:
        patch.setitem(config.UNET, "block_out_channels", (16, 32, 32))
        run(
            "train_lora",
            patch,
            kind,
            "--out",
            trained,
            "--steps",
            2,
            "--batch",
            2,
            "--device",
            "cpu",
        )
        unet = UNet2DConditionModel(**config.UNET).eval()
    packed = checkpoint.open(trained / "pocket.gguf").component("unet").tensors
    unet.load_state_dict({name: torch.tensor(t.to_float()) for name, t in packed.items()})
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 4, 16, 16)).astype(np.float32)
    c = random.standard_normal((1, 77, 128)).astype(np.float32)
    inputs = torch.from_numpy(x), torch.tensor([300]), torch.from_numpy(c)
    with torch.no_grad():
        plain = unet(*inputs).sample.numpy()
        unet.load_lora_adapter(str(trained / f"{kind}.safetensors"), prefix="unet")
        reference = unet(*inputs).sample.numpy()
    pipe = sdcore.DiffusionPipeline.open(trained / "pocket.gguf", dtype="f32")
    pipe.load_lora_weights(trained / f"{kind}.safetensors")
    out = pipe.unet(x, 300, c)
    changed = np.linalg.norm(reference - plain)
    assert changed > 0
    assert np.linalg.norm(out - reference) <= 2e-3 * np.linalg.norm(reference)


def train_companion(stage, trained, monkeypatch):
    """Two steps of it, and the UNet that it was trained for."""
    small = ("--out", trained, "--steps", 2, "--batch", 2, "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setitem(config.UNET, "block_out_channels", (16, 32, 32))
        run(stage, patch, *small)
        unet = UNet2DConditionModel(**config.UNET).eval()
    unet.load_state_dict(training.averages(trained, "unet"))
    return unet


def test_the_controlnet_is_one_that_diffusers_opens(trained, monkeypatch):
    unet = train_companion("train_controlnet", trained, monkeypatch)
    control = ControlNetModel.from_pretrained(trained / "controlnet").float().eval()
    assert control.config.cross_attention_dim == config.TEXT["hidden_size"]
    x, t, c = torch.randn(1, 4, 16, 16), torch.tensor([300]), torch.randn(1, 77, 128)
    drawing = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        down, mid = control(x, t, c, drawing, return_dict=False)
        plain = unet(x, t, c).sample
        led = unet(
            x, t, c, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
    assert (plain - led).norm() > 0  # the layers that began at zero have moved


def test_edges_lie_where_shapes_end():
    edges = importlib.import_module("train_controlnet").edges
    picture = np.full((8, 8, 3), 250, np.uint8)
    assert not edges(picture).any()
    picture[2:6, 3:5] = (222, 38, 44)
    lines = edges(picture)[..., 0] == 255
    assert np.array_equal(np.flatnonzero(lines[3]), [2, 4])  # the last pixel before a change
    assert np.array_equal(np.flatnonzero(lines[:, 3]), [1, 5])
    assert not lines[0].any()
    assert not lines[7].any()


def test_the_ip_adapter_is_one_that_diffusers_opens(trained, monkeypatch):
    unet = train_companion("train_ip_adapter", trained, monkeypatch)
    state = importlib.import_module("train_ip_adapter").trained(trained / "ip_adapter.safetensors")
    vision = CLIPVisionModelWithProjection.from_pretrained(trained / "image_encoder").float()
    x, t, c = torch.randn(2, 4, 16, 16), torch.tensor([300]), torch.randn(2, 77, 128)
    with torch.no_grad():
        embeds = vision(torch.rand(2, 3, 128, 128)).image_embeds[:, None]
        plain = unet(x, t, c).sample
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        adapted = unet(x, t, c, added_cond_kwargs={"image_embeds": [embeds]}).sample
    assert (plain - adapted).norm() > 0


def test_companions_are_scored(trained, monkeypatch, capsys):
    for stage in ("train_controlnet", "train_ip_adapter"):
        train_companion(stage, trained, monkeypatch)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setitem(config.UNET, "block_out_channels", (16, 32, 32))
        run("score_companions", patch, "--out", trained, "--count", 2)
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["neither", "ControlNet", "IP-Adapter"]


def test_a_consistency_model_sees_where_the_teacher_s_path_ends(trained):
    """A perfect teacher's paths keep their noise and end in the clean picture, which a perfect
    student sees in every point; at timestep 0 its answer is the input."""
    train_lora = importlib.import_module("train_lora")
    noise = train_lora.Noise("cpu")
    x0, eps = torch.randn(2, 3, 4, 16, 16).unbind(0)

    def perfect(x, at, _context):
        copies = len(x) // 3
        a, s = noise.at(at)
        v = a * eps.repeat(copies, 1, 1, 1) - s * x0.repeat(copies, 1, 1, 1)
        return SimpleNamespace(sample=v)

    teacher = train_lora.Teacher(perfect, noise, torch.zeros(77, 128))
    start = noise.add(x0, eps, torch.full((3,), 999))
    random = np.random.default_rng(0)
    x, c, t, end = teacher.walk(start, torch.zeros(3, 77, 128), random)
    assert len(x) == len(c) == len(t) == len(end)
    assert set((t % 20).tolist()) == {19}
    assert {999, 19} <= set(t.tolist())
    copies = len(x) // 3
    close = {"rtol": 1e-3, "atol": 1e-3}
    again = noise.add(x0.repeat(copies, 1, 1, 1), eps.repeat(copies, 1, 1, 1), t)
    torch.testing.assert_close(x, again, **close)
    torch.testing.assert_close(end, x0.repeat(copies, 1, 1, 1), **close)
    student = train_lora.Consistency(perfect, noise)
    assert student(x, c, t, end) < 1e-5
    assert student(x, c, t, end + 1) > 1
    begun = student.answer(x0, c[:3], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(begun, x0)
