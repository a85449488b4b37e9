"""The C ABI draws what Python draws, bit for bit, and refuses what cannot be with a status."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdc
from drawing import GIVEN, MASK, edited

import sdcore
import tiny_models
from sdcore import _core
from sdcore.schedulers.base import Config, Row, Scheduler, Table, Term

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"
SIZE = {"width": 48, "height": 32}


def draw_in_python(pipe: sdcore.DiffusionPipeline, **options: Any) -> list[np.ndarray]:
    out = pipe(PROMPT, NEGATIVE, **{"seed": 7, "num_inference_steps": 3, **SIZE, **options})
    return [np.asarray(image) for image in out.images]


def assert_same(pictures: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(pictures) == len(expected)
    for picture, other in zip(pictures, expected, strict=True):
        assert picture.std() > 1  # grey or black would prove nothing
        assert np.array_equal(picture, other)


# ---- the same pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "bf16", "auto"])
@pytest.mark.parametrize("guidance", [1.0, 4.3])
def test_pictures_are_pythons(
    library: sdc.Library, exported: Path, folder: Path, dtype: str, guidance: float
) -> None:
    params = library.params(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=guidance, seed=7, steps=3, count=2, **SIZE
    )
    pictures, seeds = sdc.Model(library, exported, dtype).generate(params)
    pipe = sdcore.DiffusionPipeline.open(folder, dtype=dtype)
    assert_same(pictures, draw_in_python(pipe, guidance_scale=guidance, num_images_per_prompt=2))
    assert seeds == [7, 8]


def test_pictures_in_f16_are_pythons_too(
    library: sdc.Library, folder: Path, tmp_path: Path
) -> None:
    where = {"dtype": "f16", "device": "emulated"}
    try:
        _core.check_device(where["device"])
    except sdcore.InvalidArgumentError:
        pytest.skip("not built in")
    size = {"width": 24, "height": 16}
    params = library.params(PROMPT, guidance_scale=1.0, seed=7, **size)
    pipe = sdcore.DiffusionPipeline.open(folder, **where)
    pipe.export(tmp_path / "model.gguf", steps=1)
    pictures, _ = sdc.Model(library, tmp_path / "model.gguf", **where).generate(params)
    more = {"guidance_scale": 1.0, "num_inference_steps": 1}
    assert_same(pictures, draw_in_python(pipe, **more, **size))


def multistep_table(config: Config, steps: int) -> Table:
    """DDIM, pulled a little by the two steps before."""
    rows = sdcore.DDIMScheduler.make_table(config, steps).rows
    past = [(), (Term(m=0.02),), (Term(x=0.01), Term(x0=0.03, m=-0.01))]
    return Table(
        tuple(
            Row(r.timestep, r.x0_from, r.terms + past[min(i, 2)], r.noise, 2.0, 0.9)
            for i, r in enumerate(rows)
        ),
        init_noise_sigma=1.1,
    )


class Multistep(sdcore.DDIMScheduler):
    make_table = staticmethod(multistep_table)


EXPORTED = [kind for kind in Scheduler.registry.values() if not kind.renoises_negative]


@pytest.mark.parametrize("scheduler", [*EXPORTED, Multistep])
def test_every_scheduler_is_pythons(
    library: sdc.Library, folder: Path, tmp_path: Path, scheduler: type[Scheduler]
) -> None:
    config = sdcore.DiffusionPipeline.open(folder).scheduler.config
    pipe = sdcore.DiffusionPipeline.open(folder, scheduler=scheduler.from_config(config))
    pipe.export(tmp_path / "model.gguf", steps=5)
    params = library.params(PROMPT, negative_prompt=NEGATIVE, seed=7, **SIZE)
    model = sdc.Model(library, tmp_path / "model.gguf")
    assert_same(model.generate(params)[0], draw_in_python(pipe, num_inference_steps=5))
    if scheduler is Multistep:
        return  # its table cannot be begun within
    given = {"image": GIVEN, "strength": 0.7, "width": 24, "height": 16}
    params = library.params(PROMPT, negative_prompt=NEGATIVE, seed=7, **given, mask=MASK)
    expected = draw_in_python(pipe, num_inference_steps=5, **given, mask_image=MASK)
    assert_same(model.generate(params)[0], expected)


def test_quantized_weights_stay_as_they_are(library: sdc.Library, tmp_path: Path) -> None:
    spec = tiny_models.ODD
    source = tiny_models.save_gguf(
        spec, tmp_path / "q8_0.gguf", metadata=tiny_models.config_metadata(spec)
    )
    vocabulary = tiny_models.write_tokenizer(tmp_path / "tokenizer")
    pipe = sdcore.DiffusionPipeline.open(source, tokenizer=vocabulary)
    path = tmp_path / "exported.gguf"
    pipe.export(path, steps=range(2, 5))
    stored = sdcore.gguf.open(path).tensors
    assert {tensor.type for tensor in stored.values()} == {"q8_0", "f16"}
    params = library.params(PROMPT, negative_prompt=NEGATIVE, seed=7, steps=3, **SIZE)
    pictures, _ = sdc.Model(library, path).generate(params)
    assert_same(pictures, draw_in_python(pipe))


def test_python_opens_an_exported_file(exported: Path, folder: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted.safetensors"
    sdcore.convert(exported, converted)
    paths = (folder, exported, converted)
    expected, *pipes = (sdcore.DiffusionPipeline.open(path, dtype="f32") for path in paths)
    for pipe in pipes:
        assert_same(draw_in_python(pipe), draw_in_python(expected))
        assert type(pipe.scheduler) is type(expected.scheduler)


def test_defaults_are_the_models(model: sdc.Model, folder: Path) -> None:
    done: list[tuple[int, int]] = []
    params = model.library.params(PROMPT)
    pictures, (seed,) = model.generate(params, lambda *step: done.append(step) or 0)
    assert done == [(i, 21) for i in range(1, 22)]  # PLMS makes its first step twice
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    assert_same(pictures, [np.asarray(pipe(PROMPT, seed=seed).images[0])])
    assert model.generate(params)[1] != [seed]


def test_networks_run_alone(model: sdc.Model, folder: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    rng = np.random.default_rng(1)
    image = rng.standard_normal((2, 10, 6, 4), dtype=np.float32)
    ids = pipe.tokenizer([PROMPT, NEGATIVE])
    states = pipe.text_encoder(ids)
    unet = {"sample": image, "timestep": np.array([3, 500], np.float32)}
    for name, network, inputs in (
        ("text_encoder", pipe.text_encoder.network, {"input_ids": ids}),
        ("unet", pipe.unet.network, unet | {"encoder_hidden_states": states}),
        ("vae_decoder", pipe.vae.decoder, {"latents": image}),
        ("vae_encoder", pipe.vae.encoder, {"sample": image[..., :3].copy()}),
    ):
        expected, out = network.run(inputs), model.run(name, inputs)
        assert expected.keys() == out.keys()
        for key in expected:
            assert np.array_equal(out[key], expected[key]), (name, key)


def test_two_threads_do_not_meet(model: sdc.Model) -> None:
    def params(seed: int) -> sdc.GenerateParams:
        return model.library.params(PROMPT, seed=seed, steps=20, width=32 + 2 * seed, height=32)

    alone = [model.generate(params(seed))[0][0] for seed in (1, 2)]
    together: dict[int, np.ndarray] = {}
    steps: dict[int, list[int]] = {1: [], 2: []}
    failures: dict[int, str] = {}

    def work(seed: int) -> None:
        with pytest.raises(sdc.Failed, match=f"width .* got {600 + 2 * seed + 1}"):
            model.generate(model.library.params(width=600 + 2 * seed + 1))
        together[seed] = model.generate(
            params(seed), lambda done, _: steps[seed].append(done) or 0
        )[0][0]
        failures[seed] = model.c.sdc_last_error().decode()  # of this thread, still

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert np.array_equal(together[seed], alone[seed - 1])
        assert steps[seed] == list(range(1, 22))
        assert f"got {600 + 2 * seed + 1}" in failures[seed]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"prompt": None}, "params->prompt is NULL"),
        ({"width": 513}, r"\[generate\] width must be a multiple of 2 .*got 513; try 512"),
        ({"height": 0}, "height must be .*got 0"),
        ({"height": 8194}, "height must be .*at most 8192, got 8194; try 8192"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 7}, "exported for 3, 20 steps, got 7"),
        ({"count": 0}, "count must be between 1 and 1024, got 0"),
        ({"seed": -2}, "seed must be at least 0, got -2"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number, got nan"),
        ({"prompt": "a cat <lora:style:1>"}, r"\[generate\] <lora:…> in a prompt is for Python"),
    ],
)
def test_bad_requests(model: sdc.Model, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(sdc.Failed, match=text) as failed:
        model.generate(model.library.params(**fields))
    assert failed.value.status == sdc.INVALID_ARGUMENT


def test_a_callback_cancels(model: sdc.Model) -> None:
    with pytest.raises(sdc.Failed, match="stopped by the caller after step 2 of 21") as failed:
        model.generate(model.library.params(steps=20), lambda done, _: done == 2)
    assert failed.value.status == sdc.CANCELLED
    assert model.generate(model.library.params(steps=3))[0]  # the model is as good as before


@pytest.mark.parametrize("most", [1, 400])
def test_a_callback_stops_within_a_step(model: sdc.Model, most: int) -> None:
    """And before the first one, while the prompt is encoded."""
    asked: list[int] = []
    done: list[int] = []
    params = model.library.params(steps=3)
    params.should_stop = sdc.StopCallback(lambda _: asked.append(1) or len(asked) >= most)
    with pytest.raises(sdc.Failed, match=r"stopped by the caller$") as failed:
        model.generate(params, lambda at, _: done.append(at) or 0)
    assert failed.value.status == sdc.CANCELLED
    assert len(asked) == most
    assert len(done) < 4
    assert model.generate(model.library.params(steps=3))[0]


@pytest.mark.parametrize(
    ("part", "attribute", "text"),
    [
        ("unet", "network", "what step 1 of 4 made is not all finite numbers"),
        ("vae", "decoder", "what the VAE made of the latents is not all finite numbers"),
    ],
)
def test_what_is_no_number_is_refused(
    library: sdc.Library, folder: Path, tmp_path: Path, part: str, attribute: str, text: str
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder)
    model = getattr(pipe, part)
    network = getattr(model, attribute)
    name = "conv_out.bias" if part == "unet" else "decoder.conv_out.bias"
    bias = np.full(network.tensors[name].shape, np.nan, np.float32)
    setattr(model, attribute, network.with_weights({name: _core.Tensor.from_array(bias)}))
    pipe.export(tmp_path / "model.gguf", steps=3, dtype="f32")
    damaged = sdc.Model(library, tmp_path / "model.gguf")
    with pytest.raises(sdc.Failed, match=text) as failed:
        damaged.generate(library.params(**SIZE))
    assert failed.value.status == sdc.UNSUPPORTED_MODEL


def test_null_is_refused(model: sdc.Model) -> None:
    c, handle, params = model.c, model.handle, model.library.params()
    out, tensor = c_void_p(1), sdc.Tensor()
    for call, text in (
        (lambda: c.sdc_model_open(None, None, byref(out)), "path is NULL"),
        (lambda: c.sdc_model_open(b"x", None, None), "out is NULL"),
        (lambda: c.sdc_generate(None, byref(params), byref(out)), "model is NULL"),
        (lambda: c.sdc_generate(handle, None, byref(out)), "params is NULL"),
        (lambda: c.sdc_generate(handle, byref(params), None), "out is NULL"),
        (lambda: c.sdc_images_get(None, c_size_t(0), byref(sdc.Image())), "images is NULL"),
        (lambda: c.sdc_network_run(None, b"x", None, c_size_t(0), byref(out)), "model is NULL"),
        (lambda: c.sdc_network_run(handle, None, None, c_size_t(0), byref(out)), "network is"),
        (lambda: c.sdc_network_run(handle, b"unet", None, c_size_t(1), byref(out)), "inputs is"),
        (lambda: c.sdc_tensors_get(None, c_size_t(0), byref(tensor)), "tensors is NULL"),
        (lambda: c.sdc_cpu_isa(None), "out is NULL"),
    ):
        assert call() == sdc.INVALID_ARGUMENT
        assert text in c.sdc_last_error().decode()
    assert out.value is None  # what was there before is gone
    for name in ("model", "images", "tensors"):
        getattr(c, f"sdc_{name}_free")(None)
    assert c.sdc_images_count(None) == c.sdc_tensors_count(None) == 0
    c.sdc_model_options_init(None, c_size_t(32))
    c.sdc_generate_params_init(None, c_size_t(32))


def test_bad_inputs_of_a_network(model: sdc.Model) -> None:
    ids = np.zeros((1, 77), np.int32)
    for network, inputs, text in (
        ("vae", {}, "no network 'vae'; the file holds text_encoder, unet, vae_decoder, vae_enc"),
        ("text_encoder", {}, "input 'input_ids' is missing"),
        ("text_encoder", {"ids": ids}, "there is no input 'ids'"),
        ("text_encoder", {"input_ids": ids.astype(np.float32)}, "'input_ids' must be i32"),
        ("text_encoder", {"input_ids": ids - 1}, "id -1 at position 0 is outside the table"),
        ("text_encoder", {"input_ids": ids.reshape(1, 1, 1, 7, 11)}, "1 to 4 dimensions, got 5"),
        ("vae_decoder", {"latents": np.zeros((1, 2, 2, 5), np.float32)}, "conv2d"),
    ):
        with pytest.raises(sdc.Failed, match=text) as failed:
            model.run(network, inputs)
        assert failed.value.status == sdc.INVALID_ARGUMENT


def test_init_stays_within_an_older_programs_struct(library: sdc.Library) -> None:
    """And leaves what only a newer program knows at zero."""
    known = ctypes.sizeof(sdc.ModelOptions)
    for size in (sdc.ModelOptions.device.offset, known, known + 8):
        memory = (ctypes.c_uint8 * (known + 16))(*[0xAA] * (known + 16))
        library.c.sdc_model_options_init(memory, c_size_t(size))
        assert int.from_bytes(bytes(memory[:8]), "little") == size
        for name, _ in sdc.ModelOptions._fields_[1:]:  # what lies between them has no meaning
            field = getattr(sdc.ModelOptions, name)
            assert field.offset >= size or not any(memory[field.offset :][: field.size])
        assert not any(memory[known:size])
        assert set(memory[size:]) == {0xAA}


def test_parameters_of_other_versions(model: sdc.Model) -> None:
    library, images = model.library, c_void_p()

    def generate(params: Any) -> None:
        library.check(model.c.sdc_generate(model.handle, byref(params), byref(images)))
        model.c.sdc_images_free(images)

    older = library.params(steps=3, count=0)
    older.struct_size = sdc.GenerateParams.count.offset  # knew no count, so it draws one
    generate(older)
    older.count, older.strength = 1, 0.0
    older.struct_size = sdc.GenerateParams.image.offset  # knew no pictures
    generate(older)

    class Newer(ctypes.Structure):
        _fields_ = (("known", sdc.GenerateParams), ("power", ctypes.c_double))

    newer = Newer(library.params(steps=3), 0.0)
    newer.known.struct_size = ctypes.sizeof(Newer)
    generate(newer)
    newer.power = 0.5
    with pytest.raises(sdc.Failed, match=r"asks for something that sdcore .* not know"):
        generate(newer)
    with pytest.raises(sdc.Failed, match="struct_size is 0: fill the struct with its _init"):
        generate(library.params(struct_size=0))


def test_bad_options(library: sdc.Library, exported: Path) -> None:
    for options, text in (
        ({"dtype": "f64"}, r"\[dtype\] must be auto, f32, bf16 or f16, got 'f64'"),
        ({"dtype": "f16"}, "f16 is for GPUs: on the CPU use auto, bf16 or f32"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"threads": 5000}, "threads.* must be between 1 and 1024, got 5000"),
    ):
        with pytest.raises(sdc.Failed, match=text) as failed:
            sdc.Model(library, exported, **options)
        assert failed.value.status == sdc.INVALID_ARGUMENT


def test_bad_files(library: sdc.Library, exported: Path, folder: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    for name, content, status in (
        ("missing", None, sdc.IO),
        ("empty", b"", sdc.CHECKPOINT),
        ("text", b"not a model" * 100, sdc.CHECKPOINT),
        ("head", data[:1000], sdc.CHECKPOINT),
        ("truncated", data[: len(data) // 2], sdc.CHECKPOINT),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(sdc.Failed, match=name) as failed:
            sdc.Model(library, path)
        assert failed.value.status == status, (name, str(failed.value))


OPTIONAL = (
    "general.",
    "sdcore.config.",
    "sdcore.graph.",
    "sdcore.default.dtype",
    "tokenizer.ggml.model",
)


def test_every_key_is_needed_in_its_type(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    keys = {
        key: sdcore.gguf.Typed(1, "u8")
        if isinstance(value, bool)
        else sdcore.gguf.Typed(True, "bool")
        for key, value in sdcore.gguf.open(exported).metadata.items()
        if not key.startswith(OPTIONAL)
    }
    assert len(keys) > 15
    for key, other in keys.items():
        for value in (None, other):
            path = edited(exported, tmp_path / "model.gguf", **{key: value})
            if key == "sdcore.pipeline.version" and value is None:
                continue  # then it is no pipeline, see below
            if key == "sdcore.table.3.rows" and value is None:
                continue  # then it draws in 20 steps alone
            if key == "sdcore.text.text_encoder.end" and value is None:
                continue  # then a text ends at its highest id
            with pytest.raises(sdc.Failed, match=key if value else "model") as failed:
                sdc.Model(library, path)
            assert failed.value.status == sdc.CHECKPOINT, key


@pytest.mark.parametrize(
    "key, value, status",
    [
        ("sdcore.pipeline.version", 4, sdc.UNSUPPORTED_MODEL),
        ("sdcore.latent.pixels", 0, sdc.CHECKPOINT),
        ("sdcore.latent.scale", np.array([np.inf], np.float32), sdc.CHECKPOINT),
        ("sdcore.latent.shift", np.zeros(3, np.float32), sdc.CHECKPOINT),
        ("sdcore.text.encoders", ["text_encoder", "text_encoder_2"], sdc.CHECKPOINT),
        ("sdcore.text.text_encoder.tokens", 2, sdc.CHECKPOINT),
        ("sdcore.text.text_encoder.padding", 10**6, sdc.CHECKPOINT),
        ("sdcore.text.text_encoder.end", 10**6, sdc.CHECKPOINT),
        ("sdcore.text.encoders", sdcore.gguf.Typed([], "string"), sdc.CHECKPOINT),
        ("sdcore.text.channels", 2**32 - 1, sdc.CHECKPOINT),
        ("sdcore.captions.tokens", 77, sdc.CHECKPOINT),
        ("sdcore.size.multiple", 3, sdc.CHECKPOINT),
        ("sdcore.size.multiple", 0, sdc.CHECKPOINT),
        ("sdcore.size.largest", 1, sdc.CHECKPOINT),
        ("sdcore.denoiser.network", "transformer", sdc.CHECKPOINT),
        ("sdcore.denoiser.guidance_embedding", 2**32 - 1, sdc.CHECKPOINT),
        ("sdcore.default.steps", 4, sdc.CHECKPOINT),
        ("sdcore.table.3.terms", 0, sdc.CHECKPOINT),
        ("sdcore.table.3.terms", 2**32 - 1, sdc.CHECKPOINT),
        ("sdcore.table.3.rows", np.zeros(10, np.float32), sdc.CHECKPOINT),
        ("sdcore.table.3.rows", np.full(104, np.nan, np.float32), sdc.CHECKPOINT),
        ("sdcore.table.x.rows", np.zeros(14, np.float32), sdc.CHECKPOINT),
        ("sdcore.table.rows", np.zeros(14, np.float32), sdc.CHECKPOINT),
        ("tokenizer.ggml.eos_token_id", 10**6, sdc.CHECKPOINT),
        ("sdcore.default.dtype", "f64", sdc.INVALID_ARGUMENT),
    ],
)
def test_damaged_settings(
    library: sdc.Library, exported: Path, tmp_path: Path, key: str, value: Any, status: int
) -> None:
    path = edited(exported, tmp_path / "model.gguf", **{key: value})
    with pytest.raises(sdc.Failed) as failed:
        sdc.Model(library, path)
    assert failed.value.status == status, str(failed.value)


def test_sound_settings_that_do_not_fit_the_networks(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    for key, value, text in (
        ("sdcore.latent.channels", 5, "conv2d"),
        ("sdcore.latent.pixels", 1, "vae_decoder gives"),
        ("sdcore.text.text_encoder.tokens", 78, "77"),
        ("sdcore.text.channels", 8, "the CLIPs give 64 channels, and the file says 8"),
        ("sdcore.text.channels", 65, "65"),
        ("sdcore.denoiser.network", "text_encoder", "the denoiser takes input_ids"),
        ("sdcore.denoiser.guidance_embedding", 8, "does not fit the inputs of the unet"),
    ):
        path = edited(exported, tmp_path / "model.gguf", **{key: value})
        with pytest.raises(sdc.Failed, match=text):
            sdc.Model(library, path).generate(library.params(steps=3, **SIZE))


def test_a_file_of_networks_alone(library: sdc.Library, folder: Path, tmp_path: Path) -> None:
    decoder = sdcore.DiffusionPipeline.open(folder, dtype="f32").vae.decoder
    path = tmp_path / "decoder.gguf"
    _core.save_model(path, {"decoder": (decoder.graph, decoder.tensors)}, {})
    model = sdc.Model(library, path, "f32")
    inputs = {"latents": np.ones((1, 3, 5, 4), np.float32)}
    expected, out = decoder.run(inputs), model.run("decoder", inputs)
    assert np.array_equal(out["sample"], expected["sample"])
    with pytest.raises(sdc.Failed, match="no pipeline") as failed:
        model.generate(library.params())
    assert failed.value.status == sdc.UNSUPPORTED_MODEL


def test_export_refuses_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder)
    for options in ({"steps": 0}, {"steps": []}, {"steps": [4, 2.5]}, {"dtype": "f16"}):
        with pytest.raises(sdcore.InvalidArgumentError, match=r"\[export\]"):
            pipe.export(tmp_path / "model.gguf", **options)
    with pytest.raises(sdcore.SDCoreError):
        pipe.export(tmp_path / "no folder" / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_what_the_library_says_of_itself(library: sdc.Library) -> None:
    c, isa = library.c, ctypes.c_char_p()
    assert c.sdc_version().decode() == sdcore.__version__
    library.check(c.sdc_cpu_isa(byref(isa)))
    assert isa.value.decode() == _core.default_isa()
    present = {name for name, there in sdcore.cpu_features().items() if there}
    assert set(c.sdc_cpu_features().decode().split()) == present
    assert [c.sdc_status_name(i).decode() for i in (0, 1, 6, 99)] == [
        "ok",
        "invalid_argument",
        "cancelled",
        "unknown",
    ]
