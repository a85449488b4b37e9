"""What the `sdcore` command asks of a pipeline, a fake one here, and how it names what it writes.

test_cli_whole.py runs it with a model.
"""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

import sdcore
import sdcore.pipelines
from command_line import infotext_of, one_error_line
from sdcore.cli import main
from sdcore.cli.output import output_paths, slug
from sdcore.errors import CheckpointError
from sdcore.schedulers import get


class FakeStep:
    def __init__(self, index, total):
        self.index, self.total = index, total


class FakeStream:
    def __init__(self, pipe, prompt, negative_prompt, options):
        self.pipe, self.options = pipe, options
        self.total = options["num_inference_steps"] or pipe.default_steps
        self.stages = (self.total,)
        self.texts = {"prompt": prompt, "negative_prompt": negative_prompt}

    def __iter__(self):
        for index in range(self.total):
            if self.pipe.raises:
                raise self.pipe.raises
            yield FakeStep(index, self.total)

    def result(self):
        options, (w, h) = self.options, self.pipe.default_size
        parameters = {
            **self.texts,
            "steps": self.total,
            "sampler": type(self.pipe.scheduler).__name__,
            "guidance_scale": options["guidance_scale"] or 7.0,
            "width": options["width"] or w,
            "height": options["height"] or h,
            "eta": options.get("eta"),
        }
        image = Image.new("RGB", (parameters["width"], parameters["height"]), "red")
        seeds = [options["seed"] + i for i in range(options["num_images_per_prompt"])]
        return sdcore.pipelines.PipelineOutput([image] * len(seeds), seeds, parameters)


class FakePipeline:
    default_size, default_steps, lora_dir, family = (64, 64), 3, None, "sd1"

    def __init__(self):
        self.raises = None
        self.scheduler = get("DDIMScheduler")()
        self.opened, self.calls = [], []

    def open(self, path, **options):
        self.opened.append((path, options))
        return self

    def stream(self, prompt, negative_prompt="", **options):
        self.calls.append((prompt, negative_prompt, options))
        return FakeStream(self, prompt, negative_prompt, options)


@pytest.fixture
def pipe(monkeypatch, tmp_path):
    fake = FakePipeline()
    monkeypatch.setattr(sdcore.pipelines, "DiffusionPipeline", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def txt2img(*words):
    return main(["txt2img", "-m", "model.gguf", *map(str, words)])


# ---- a picture -----------------------------------------------------------------------------------


def test_one_picture(pipe, capsys):
    assert txt2img("A red circle!", "-s", 1234, "-n", "blue, square") == 0
    captured = capsys.readouterr()
    assert captured.out == "a-red-circle-1234.png\n"
    assert captured.err == "seed: 1234\n"  # no bar: this is no terminal
    text = infotext_of("a-red-circle-1234.png")
    assert (text.prompt, text.negative_prompt) == ("A red circle!", "blue, square")
    assert text.settings == {
        "Steps": "3",
        "Sampler": "DDIM",
        "CFG scale": "7",
        "Seed": "1234",
        "Size": "64x64",
        "Model": "model",
        "RNG": "CPU",
        "Version": f"sdcore {sdcore.__version__}",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "7"], {"num_inference_steps": 7}),
        (["--num-inference-steps", "7"], {"num_inference_steps": 7}),
        (["--cfg-scale", "2.5"], {"guidance_scale": 2.5}),
        (["--guidance-scale", "2.5"], {"guidance_scale": 2.5}),
        (["-W", "96", "-H", "128"], {"width": 96, "height": 128}),
        (["--width", "96", "--height", "128"], {"width": 96, "height": 128}),
        (["--sampler", "ddim", "--eta", "0.5"], {"eta": 0.5}),
        (["--seed", "7"], {"seed": 7}),
        (["--guidance-rescale", "0.7"], {"guidance_rescale": 0.7}),
        (["--rng", "cuda"], {"rng": "cuda"}),
        ([], {"num_inference_steps": None, "guidance_scale": None, "width": None, "height": None}),
    ],
)
def test_flags_reach_the_pipeline(pipe, words, expected):
    assert txt2img("-p", "x", *words) == 0
    _, _, options = pipe.calls[0]
    assert expected.items() <= options.items()
    assert ("eta" in options) == ("--eta" in words)


def test_model_options_reach_the_pipeline(pipe):
    assert txt2img("x", "--dtype", "f32", "--type", "q8_0", "-t", 3, "--vae", "v.safetensors") == 0
    options = {"device": "cpu", "dtype": "f32", "threads": 3, "quantize": "q8_0"}
    more = {"stream_weights": None, "vae": "v.safetensors"}
    assert pipe.opened == [("model.gguf", {**options, **more})]
    assert txt2img("x", "--stream-weights", "-o", "y.png") == 0
    assert pipe.opened[1][1]["stream_weights"] is True


@pytest.mark.parametrize("name", ["ddpm", "DDPM", "DDPMScheduler"])
@pytest.mark.parametrize("flag", ["--sampler", "--sampling-method"])
def test_sampler(pipe, flag, name):
    pipe.scheduler = get("DDIMScheduler")(beta_start=0.5)
    assert txt2img("x", flag, name, "-o", "x.png") == 0
    assert isinstance(pipe.scheduler, get("DDPMScheduler"))
    assert pipe.scheduler.config.beta_start == 0.5
    assert infotext_of("x.png").settings["Sampler"] == "DDPM"


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [
        ("euler", "Euler", "EulerDiscreteScheduler"),
        ("Euler a", "Euler a", "EulerAncestralDiscreteScheduler"),
        ("heun", "Heun", "HeunDiscreteScheduler"),
        ("lms", "LMS", "LMSDiscreteScheduler"),
        ("plms", "PLMS", "PNDMScheduler"),
        ("PNDM", "PLMS", "PNDMScheduler"),
        ("lcm", "LCM", "LCMScheduler"),
        ("dpm2", "DPM2", "KDPM2DiscreteScheduler"),
        ("unipc", "UniPC", "UniPCMultistepScheduler"),
        ("dpm++2m", "DPM++ 2M", "DPMSolverMultistepScheduler"),
        ("DPM++ 2M SDE", "DPM++ 2M SDE", "DPMSolverMultistepScheduler"),
        ("dpm++2m_sde", "DPM++ 2M SDE", "DPMSolverMultistepScheduler"),
        ("dpm++2s_a", "DPM++ 2S a", "DPMSolver2SAncestralScheduler"),
        ("DPM++ 3M SDE", "DPM++ 3M SDE", "DPMSolver3MSDEScheduler"),
        ("dpm++sde", "DPM++ SDE", "DPMSolverSDEScheduler"),
        ("DPM2 a", "DPM2 a", "KDPM2AncestralDiscreteScheduler"),
        ("deis", "DEIS", "DEISMultistepScheduler"),
        ("SASolver", "SA-Solver", "SASolverScheduler"),
        ("tcd", "TCD", "TCDScheduler"),
        ("k_euler_a", "Euler a", "EulerAncestralDiscreteScheduler"),
        ("euler_ancestral", "Euler a", "EulerAncestralDiscreteScheduler"),
        ("k_dpm_2", "DPM2", "KDPM2DiscreteScheduler"),
        ("k_dpm_2_a", "DPM2 a", "KDPM2AncestralDiscreteScheduler"),
        ("dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler"),
        ("k_dpmpp_2s_ancestral", "DPM++ 2S a", "DPMSolver2SAncestralScheduler"),
        ("dpmpp_2m_sde_gpu", "DPM++ 2M SDE", "DPMSolverMultistepScheduler"),
        ("k_dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun", "DPMSolverMultistepScheduler"),
        ("dpmpp_sde", "DPM++ SDE", "DPMSolverSDEScheduler"),
        ("uni_pc_bh2", "UniPC", "UniPCMultistepScheduler"),
        ("uni_pc", "UniPC", "UniPCMultistepScheduler"),
    ],
)
def test_samplers_by_their_usual_names(pipe, name, title, kind):
    pipe.scheduler = get("PNDMScheduler")(beta_start=0.0005)
    assert txt2img("x", "--sampler", name, "-o", "x.png") == 0
    assert type(pipe.scheduler) is get(kind)
    assert pipe.scheduler.config.beta_start == 0.0005
    pipe.scheduler.set_timesteps(3)
    assert infotext_of("x.png").settings["Sampler"] == title


@pytest.mark.parametrize(
    "words",
    [
        ("--sampler", "DPM++ 2M Karras"),
        ("--sampler", "dpmpp_2m", "--schedule", "Karras"),
        ("--sampler", "DPM++ 2M Exponential", "--schedule", "KARRAS"),
    ],
)
def test_names_as_other_doors_take_them(pipe, words):
    assert txt2img("x", *words, "-o", "x.png") == 0
    settings = infotext_of("x.png").settings
    assert (settings["Sampler"], settings["Schedule type"]) == ("DPM++ 2M", "Karras")


def test_schedule(pipe, capsys):
    assert txt2img("x", "--sampler", "euler", "--schedule", "karras", "-o", "x.png") == 0
    assert pipe.scheduler.config.use_karras_sigmas is True
    assert infotext_of("x.png").settings["Schedule type"] == "Karras"
    assert txt2img("x", "--schedule", "normal", "-o", "y.png") == 0
    assert pipe.scheduler.config.use_karras_sigmas is False
    assert infotext_of("y.png").settings["Schedule type"] == "Normal"
    capsys.readouterr()
    assert txt2img("x", "--sampler", "ddim", "--schedule", "karras", "-o", "z.png") == 2
    one_error_line(capsys, "schedule karras is not for DDIM")


def test_batch_uses_one_seed_more_each(pipe, capsys):
    assert txt2img("x", "-b", 3, "-s", 10) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["x-10.png", "x-11.png", "x-12.png"]
    assert captured.err.splitlines() == ["seed: 10", "seed: 11", "seed: 12"]
    assert [infotext_of(p).settings["Seed"] for p in captured.out.split()] == ["10", "11", "12"]
    assert len(pipe.opened) == 1


def test_batches_have_a_size(pipe, capsys):
    assert txt2img("x", "-b", 2, "--batch-size", 2, "-s", 10) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [f"x-{seed}.png" for seed in (10, 11, 12, 13)]
    assert captured.err.splitlines() == [f"seed: {seed}" for seed in (10, 11, 12, 13)]
    seeds = [infotext_of(path).settings["Seed"] for path in captured.out.split()]
    assert seeds == ["10", "11", "12", "13"]
    drawn = [(options["seed"], options["num_images_per_prompt"]) for *_, options in pipe.calls]
    assert drawn == [(10, 2), (12, 2)]


def test_a_seed_is_drawn_and_reported(pipe, capsys):
    assert txt2img("x", "-s", -1) == 0
    assert txt2img("x") == 0
    captured = capsys.readouterr()
    drawn = [int(seed) for seed in re.findall(r"seed: (\d+)", captured.err)]
    assert len(set(drawn)) == 2
    assert captured.out.split() == [f"x-{seed}.png" for seed in drawn]
    assert txt2img("x", "--quiet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "kind"), [("x.jpg", "JPEG"), ("x.WEBP", "WEBP")])
def test_other_files_of_pictures(pipe, capsys, name, kind):
    assert txt2img("é, a cat", "-s", 1, "-o", name) == 0
    assert Image.open(name).format == kind
    assert infotext_of(name).prompt == "é, a cat"
    assert main(["info", name]) == 0
    assert f"{name}: a picture ({kind.lower()})\né, a cat\nSteps: 3" in capsys.readouterr().out
    assert txt2img("--from-png", name, "-o", "again.png") == 0
    assert infotext_of("again.png") == infotext_of(name)


def test_empty_and_odd_prompts(pipe):
    assert txt2img("", "-s", 1) == 0
    assert Path("picture-1.png").is_file()
    broken = os.fsdecode(b"caf\xff")  # an argument that is not UTF-8
    assert txt2img(broken, "-s", 1) == 0
    assert pipe.calls[-1][0] == "caf\ufffd"


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "seeds", "names"),
    [
        (None, [5], ["a-cat-5.png"]),
        ("out/", [5], ["out/a-cat-5.png"]),
        ("x.png", [5], ["x.png"]),
        ("x", [5], ["x.png"]),
        ("v1.5", [5], ["v1.5.png"]),
        ("x.png", [5, 6], ["x-1.png", "x-2.png"]),
        ("x-%03d.png", [5, 6], ["x-001.png", "x-002.png"]),
        ("%d_{seed}", [5], ["1_5.png"]),
        ("{seed}.PNG", [5, 6], ["5.PNG", "6.PNG"]),
        ("x.jpg", [5, 6], ["x-1.jpg", "x-2.jpg"]),
        ("x.WebP", [5], ["x.WebP"]),
        ("100%.png", [5], ["100%.png"]),
        ("{other}.png", [5], ["{other}.png"]),
    ],
)
def test_output_names(tmp_path, monkeypatch, output, seeds, names):
    monkeypatch.chdir(tmp_path)
    assert output_paths(output, "A cat", seeds) == [Path(name) for name in names]


def test_output_into_a_folder_that_is_there(tmp_path):
    assert output_paths(str(tmp_path), "x", [1]) == [tmp_path / "x-1.png"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, on white", "a-red-circle-on-white"),
        ("日本 🟥", "日本"),
        ("../../etc/passwd", "etc-passwd"),
        ("🟥", "picture"),
        ("word " * 100, "word-" * 8 + "word"),
        ("x" * 1000, "x" * 48),
    ],
)
def test_slug(prompt, name):
    assert slug(prompt) == name


# ---- refusals, all before any work ---------------------------------------------------------------


def test_a_file_that_exists_is_kept(pipe, capsys):
    Path("x-1.png").write_text("mine")
    assert txt2img("x", "-s", 1) == 1
    one_error_line(capsys, "'x-1.png' exists already", "-f", "-o")
    assert Path("x-1.png").read_text() == "mine"
    assert txt2img("x", "-s", 0, "-b", 2) == 1  # nor is the first of a batch drawn
    assert pipe.opened == []
    assert txt2img("x", "-s", 1, "-f") == 0
    assert Image.open("x-1.png").size == (64, 64)


@pytest.mark.parametrize("output", ["/dev/full", "/dev/null"])
def test_a_device_is_no_picture(pipe, capsys, output):
    assert txt2img("x", "-o", output, "-f") == 1
    one_error_line(capsys, output)
    assert pipe.opened == []


def test_a_folder_that_cannot_be_written(pipe, capsys):
    Path("file").write_text("")
    assert txt2img("x", "-o", "file/x.png") == 1
    one_error_line(capsys, "'file'")
    assert txt2img("x", "-o", "/proc/x.png") == 1
    one_error_line(capsys, "'/proc'")
    assert txt2img("x", "-o", "none/x.png") == 1
    one_error_line(capsys, "'none'")
    assert txt2img("x", "-o", "none/such/") == 1
    one_error_line(capsys, "'none/such/'")
    assert pipe.opened == []


def test_a_full_disk_is_found_early(pipe, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert txt2img("x") == 1
    one_error_line(capsys, "is full")
    assert pipe.opened == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "-o", "x.gif"], "'x.gif'"),
        (["x", "-b", "0"], "--batch-count"),
        (["x", "--batch-size", "0"], "--batch-size"),
        (["x", "-s", "-2"], "--seed"),
        (["x", "--sampler", "quantum"], "'quantum'; use one of ddim, ddim_cfg_pp, ddpm"),
        (["x", "--sampler", "eular_a"], "'eular_a'; did you mean 'euler_a'?"),
    ],
)
def test_bad_values(pipe, capsys, words, message):
    assert txt2img(*words) == 2
    one_error_line(capsys, message)
    assert pipe.calls == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["txt2img", "-m", "m"], "no prompt"),
        (["txt2img", "-m", "m", "x", "-p", "y"], "two prompts"),
        (["txt2img", "-m", "m", "x", "--steps", "many"], "--steps"),
        (["txt2img", "-m", "m", "x", "--dtype", "f8"], "--dtype"),
        (["txt2img", "-m", "m", "x", "--schedule", "karas"], "'karas'; did you mean 'karras'?"),
        (["txt2img", "-m", "m", "x", "--step", "3"], "--step"),  # no guessing of flags
        (["info", "m", "--plan", "big"], "'big' is not a size such as 512x512"),
        (["info", "--plan", "64x64"], "--plan needs a FILE"),
        (["paint"], "paint"),
        ([], "COMMAND"),
    ],
)
def test_bad_usage(pipe, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    one_error_line(capsys, message, "--help")


# ---- failures during the work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CheckpointError("[gguf] 'x' is cut short"), 1, "[gguf] 'x' is cut short"),
        (ValueError("two\nlines"), 1, "ValueError: two lines (a fault of sdcore; -v shows where)"),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device", "x"), 1, "No space left on device 'x'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line(pipe, capsys, error, code, message):
    pipe.raises = error
    assert txt2img("x") == code
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert error[0].startswith("seed: ")
    assert error[1].startswith("error: ")
    assert message in error[1]
    assert list(Path().iterdir()) == []


def test_a_fault_shows_its_traceback_when_asked(pipe, capsys):
    pipe.raises = ValueError("odd")
    assert txt2img("x", "-v") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("error: ValueError: odd\n")
