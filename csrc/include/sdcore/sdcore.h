/* sdcore from C: a prompt in, or a picture too, and pictures out, from a file that
 * DiffusionPipeline.export wrote.
 *
 *   sdc_model* model = NULL;
 *   sdc_images* images = NULL;
 *   sdc_generate_params params;
 *   sdc_generate_params_init(&params, sizeof params);
 *   params.prompt = "a lighthouse at dawn";
 *   params.seed = 42;
 *   if (sdc_model_open("model.gguf", NULL, &model) || sdc_generate(model, &params, &images))
 *     fprintf(stderr, "error: %s\n", sdc_last_error());
 *   sdc_images_free(images);
 *   sdc_model_free(model);
 *
 * The rules, for every function:
 * - What can fail returns a status; on failure nothing is written to `out` but NULL, and
 *   sdc_last_error() says what was wrong. Nothing throws, exits or aborts.
 * - The library frees what it makes, by the sdc_..._free of its type, which takes NULL too.
 * - Text is UTF-8 and ends in a zero byte. What is passed in is copied or used before the return.
 * - Structs of parameters begin with their size and are filled by their _init function, which is
 *   told the size, so that a program keeps working with a library that has learned more.
 * - Any function may be called from any thread. A model is shared and never changes: calls on one
 *   model from several threads do not meet, but may wait for each other's use of the processor.
 * - A child process made by fork() uses what its parent had open, but for models on a GPU.
 */
#ifndef SDCORE_SDCORE_H
#define SDCORE_SDCORE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(SDCORE_BUILD)
#define SDC_API __declspec(dllexport)
#else
#define SDC_API __declspec(dllimport)
#endif
#else
#define SDC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status -----------------------------------------------------------------------------------
 */

/* Closed: no value will be added. */
typedef enum sdc_status {
  SDC_OK = 0,
  SDC_INVALID_ARGUMENT = 1,  /* a value the caller passed */
  SDC_CHECKPOINT = 2,        /* a file that is damaged, or not what it says it is */
  SDC_UNSUPPORTED_MODEL = 3, /* a sound file of something that cannot be run */
  SDC_IO = 4,                /* the operating system refused */
  SDC_OUT_OF_MEMORY = 5,
  SDC_CANCELLED = 6, /* a callback said so */
  SDC_INTERNAL = 7   /* a fault of sdcore itself */
} sdc_status;

/* "invalid_argument" and so on; never NULL. */
SDC_API const char* sdc_status_name(sdc_status status);

/* What was wrong in the last call that failed on this thread, in one line; "" before any. Valid
 * until the next call on this thread. */
SDC_API const char* sdc_last_error(void);

/* ---- library and machine ----------------------------------------------------------------------
 */

/* "major.minor.patch". */
SDC_API const char* sdc_version(void);

/* What the processor can do, as words with spaces between. */
SDC_API const char* sdc_cpu_features(void);

/* The level of instructions that kernels are chosen for: "generic", "avx2", "avx2_vnni", "avx512",
 * "avx512_vnni", "avx512_bf16" or "amx". Fails where SDCORE_ISA asks for what there is not. */
SDC_API sdc_status sdc_cpu_isa(const char** out);

/* ---- models -----------------------------------------------------------------------------------
 */

typedef struct sdc_model sdc_model;

typedef struct sdc_model_options {
  size_t struct_size;
  const char* dtype;  /* "auto", "f32", "bf16", on GPUs "f16"; NULL: what the file says */
  int32_t threads;    /* 0: SDCORE_NUM_THREADS, or one a processor */
  const char* device; /* "cpu", "cuda", "cuda:1"; NULL: "cpu" */
} sdc_model_options;

SDC_API void sdc_model_options_init(sdc_model_options* options, size_t size);

/* `options` may be NULL. The file stays mapped while the model lives: do not write to it. */
SDC_API sdc_status sdc_model_open(const char* path, const sdc_model_options* options,
                                  sdc_model** out);
/* No call on the model may be under way. Images and tensors made with it live on. */
SDC_API void sdc_model_free(sdc_model* model);

/* What requests to a model may be. */
typedef struct sdc_model_info {
  size_t struct_size;
  int32_t width, height, steps; /* what SDC_DEFAULT stands for */
  float guidance_scale;
  int32_t size_multiple; /* pixels: widths and heights are multiples of it */
  int32_t largest_side;  /* pixels: and at most this */
} sdc_model_info;

/* Fills the first `size` bytes of `out`. SDC_UNSUPPORTED_MODEL: the file holds networks alone. */
SDC_API sdc_status sdc_model_info_get(const sdc_model* model, sdc_model_info* out, size_t size);

/* The numbers of steps that the model was exported for, the smallest first; none where the file
 * holds networks alone. */
SDC_API size_t sdc_model_steps_count(const sdc_model* model);
SDC_API sdc_status sdc_model_steps_get(const sdc_model* model, size_t index, int32_t* out);

/* The names of the file's networks, for sdc_network_run; they live as long as the model. */
SDC_API size_t sdc_model_networks_count(const sdc_model* model);
SDC_API sdc_status sdc_model_networks_get(const sdc_model* model, size_t index, const char** out);

/* ---- pictures ---------------------------------------------------------------------------------
 */

typedef struct sdc_images sdc_images;

/* In place of a number: what the model was exported with. */
#define SDC_DEFAULT (-1)

/* Called on the thread of sdc_generate after each step, `done` of `total`; not zero stops the run.
 * Must not throw. */
typedef int (*sdc_step_callback)(int32_t done, int32_t total, void* user);

/* Called on the thread of sdc_generate again and again within each step, and while text and
 * pictures are encoded and decoded, on the CPU; not zero stops the run. Must not throw, and should
 * take no time: it reads a flag that another thread or a handler of signals has set. */
typedef int (*sdc_stop_callback)(void* user);

typedef struct sdc_generate_params {
  size_t struct_size;
  /* With weights, as in "a (red:1.3) cat", and of any length. It must be set. */
  const char* prompt;
  const char* negative_prompt; /* NULL: none, which to most models is the same as "" */
  int32_t width, height;     /* pixels, or SDC_DEFAULT: those of `image`, where neither is given */
  int32_t steps;             /* a number that the model was exported for, or SDC_DEFAULT */
  float guidance_scale;      /* 1 or less: none, and half the work; or SDC_DEFAULT */
  int64_t seed;              /* of the first image, image i uses seed + i; SDC_DEFAULT draws one */
  int32_t count;             /* images, made together; 1 by default */
  sdc_step_callback on_step; /* may be NULL */
  void* user;                /* handed to callbacks */
  /* A picture to begin from in place of noise alone: red, green, blue; row after row from the top,
   * no padding; of any size, it is resized to width x height. NULL: there is none. */
  const uint8_t* image;
  int32_t image_width, image_height;
  /* Of the image's size, a byte a pixel: from 128 on it is painted over, below it is kept. NULL:
   * all is drawn anew. */
  const uint8_t* mask;
  int32_t mask_width, mask_height;
  double strength; /* share of the steps made from `image`, from 0 (the last) to 1; 0.75 */
  sdc_stop_callback should_stop; /* may be NULL; it is handed `user` too */
} sdc_generate_params;

SDC_API void sdc_generate_params_init(sdc_generate_params* params, size_t size);

/* The pictures that Python draws with the same file and settings, bit for bit. A picture to begin
 * from needs the file's vae_encoder. */
SDC_API sdc_status sdc_generate(const sdc_model* model, const sdc_generate_params* params,
                                sdc_images** out);

typedef struct sdc_image {
  int32_t width, height;
  const uint8_t* pixels; /* red, green, blue; row after row from the top, no padding */
  uint64_t seed;
} sdc_image;

SDC_API size_t sdc_images_count(const sdc_images* images);
/* The pixels belong to `images`. */
SDC_API sdc_status sdc_images_get(const sdc_images* images, size_t index, sdc_image* out);
SDC_API void sdc_images_free(sdc_images* images);

/* ---- single networks --------------------------------------------------------------------------
 */

/* Closed: no value will be added. */
typedef enum sdc_dtype { SDC_F32 = 0, SDC_I32 = 1 } sdc_dtype;

/* A dense array, the last dimension innermost. */
typedef struct sdc_tensor {
  const char* name;
  sdc_dtype dtype;
  int32_t rank; /* 1 to 4 */
  const int64_t* shape;
  const void* data;
} sdc_tensor;

typedef struct sdc_tensors sdc_tensors;

/* Runs one network of the file, at any size that it takes. A pipeline has these, with images
 * channels-last:
 *   text_encoder  input_ids i32 [n, tokens] -> last_hidden_state
 *   text_encoder_2, of SDXL, and both of SD3: the same, and end i32 [n], where each text ends ->
 *                 pooled
 *   text_encoder_3, of SD3, and text_encoder, of PixArt: input_ids i32 [n, tokens], mask
 *                 [n, tokens], which is added to scores -> last_hidden_state
 *   unet          sample [n, h, w, c], timestep [n], encoder_hidden_states -> sample; of SDXL
 *                 text_embeds [n, pooled] and time_ids [n, 6] too
 *   transformer, in place of a UNet: the same; of SD3 pooled_projections [n, pooled] too; of PixArt
 *                 mask [n, tokens], and of the α that is told sizes resolution [n, 2] and
 *                 aspect_ratio [n, 1], -> sample [n, h, w, 2c]: means, then variances
 *   vae_decoder   latents [n, h, w, c], unscaled -> sample [n, height, width, 3] in [-1, 1]
 *   vae_encoder   sample [n, height, width, 3] -> moments [n, h, w, 2c]: means, log variances
 * All are f32 but for ids and ends. Every output comes back. */
SDC_API sdc_status sdc_network_run(const sdc_model* model, const char* network,
                                   const sdc_tensor* inputs, size_t input_count, sdc_tensors** out);

SDC_API size_t sdc_tensors_count(const sdc_tensors* tensors);
/* What `out` points to belongs to `tensors`. */
SDC_API sdc_status sdc_tensors_get(const sdc_tensors* tensors, size_t index, sdc_tensor* out);
SDC_API void sdc_tensors_free(sdc_tensors* tensors);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SDCORE_SDCORE_H */
