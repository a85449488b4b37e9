// The tile kernel for AMX: two tiles of 16 rows by a panel of 32 outputs, sums in tile registers.
// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <array>

#include "kernels/gemm/driver.h"
#include "kernels/gemm/stack_amx.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Avx512 {
  // AMX itself takes subnormals for zero, so nothing is lost by an instruction that does too.
  using simd::Avx512::store;
  using simd::Avx512::store_n;
  SDCORE_SIMD void store(bf16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
  SDCORE_SIMD void store_n(bf16* p, F x, int64_t n) {
    _mm256_mask_storeu_epi16(p, mask(n), (__m256i)_mm512_cvtneps_pbh(x));
  }
  using simd::Avx512::store_all;
  SDCORE_SIMD void store_all(bf16* p, const F (&x)[2], bool past_caches) {
    store_line(p, to_bf16(x), past_caches);
  }
  SDCORE_SIMD Bits to_bf16(const F (&x)[2]) { return (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]); }
  // Every lane twice.
  SDCORE_SIMD void in_pairs(F x, F (&twice)[2]) {
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    twice[0] = _mm512_permutexvar_ps(low, x);
    twice[1] = _mm512_permutexvar_ps(high, x);
  }
  // What the lower and the upper halves of 16 bytes stand for.
  SDCORE_SIMD void look_up(const uint8_t* p, F table, F (&x)[2]) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m512i codes = _mm512_cvtepu8_epi32(bytes);
    x[0] = _mm512_permutexvar_ps(codes, table);  // by the lower 4 bits
    x[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), table);
  }
  // As bf16, lanes of two vectors in turns.
  SDCORE_SIMD void store_pairs(uint16_t* p, F first, F second) {
    alignas(64) static constexpr auto in_turns = [] {
      std::array<uint16_t, 32> places{};
      for (uint16_t i = 0; i < 32; ++i) {
        places[i] = static_cast<uint16_t>(i / 2 + (i % 2) * 16);
      }
      return places;
    }();
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(in_turns.data()), both));
  }
};

class AmxTile {
 public:
  using V = Vector;
  static constexpr int rows = 16, panel = 32, group = 2;
  static constexpr int block_steps = 18, long_block_steps = 40, stack_steps = 90;
  static constexpr int stack = StackOfTiles<V>::lines;
  static constexpr int64_t chunk_bytes = 1 << 20;  // of the 2 MiB that such processors have a core
  static constexpr bool equal_tiles = true, pairs = true, whole_steps = true;
  static constexpr bool integers = false, widens = false, gates = true;

  // Registers 0..3 hold sums, 4 and 5 rows of A, 6 and 7 halves of the panel.
  explicit AmxTile(int tile_rows) {
    simd::TileConfig config;
    for (int i = 0; i < 6; ++i) config.rows[i] = static_cast<uint8_t>(tile_rows);
    simd::fence(&config);
    _tile_loadconfig(&config);
  }
  ~AmxTile() {
    _tile_release();
    _mm_sfence();  // stores past the caches are seen before the task counts as done
  }
  AmxTile(const AmxTile&) = delete;
  AmxTile& operator=(const AmxTile&) = delete;

  void multiply(const Tile* tiles, int64_t count, const Tile* next, int64_t row_bytes,
                const Step* steps, int64_t step_count, const char* b, Ahead ahead, int64_t columns,
                float* sums, bool accumulate, Pending<V, panel>& pending) const {
    if (count == stack) {  // as no others come by more than `group`
      StackOfTiles<V> all(tiles, next, row_bytes, steps, step_count, b);
      return all.multiply(ahead, columns, sums, accumulate, pending);
    }
    const auto run = columns > 16 ? (count > 1 ? &block<2, 2> : &block<1, 2>)
                                  : (count > 1 ? &block<2, 1> : &block<1, 1>);
    run(tiles, next, row_bytes, steps, step_count, b, ahead, sums, accumulate, pending);
  }

 private:
  template <int A, int B>
  static void block(const Tile* tiles, const Tile* next, int64_t row_bytes, const Step* steps,
                    int64_t count, const char* b, Ahead ahead, float* sums, bool accumulate,
                    Pending<V, panel>& pending) {
    constexpr int sums_bytes = panel * 4;
    simd::fence(b);
    if (accumulate) {
      _tile_loadd(0, sums, sums_bytes);
      if (B > 1) _tile_loadd(1, sums + 16, sums_bytes);
      if (A > 1) _tile_loadd(2, sums + rows * panel, sums_bytes);
      if (A > 1 && B > 1) _tile_loadd(3, sums + rows * panel + 16, sums_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    const char* a0 = tiles[0].a;
    const char* a1 = tiles[A - 1].a;
    const int64_t share = (ahead.bytes / 64 + count - 1) / count;
    const char* far = ahead.begin;
    const int64_t stores = (pending.left() + count - 1) / count;
    const int W = steps[0].run;
    for (int64_t s = 0; s < count; s += W) {
      const bool last = s + W >= count;
      const char* near0 = last ? next->a + steps[0].offset : a0 + steps[s + W].offset;
      const char* near1 =
          last ? next->a + 16 * row_bytes + steps[0].offset : a1 + steps[s + W].offset;
      for (int w = 0; w < W; ++w, b += 2048) {
        const int64_t offset = steps[s + w].offset;
        _tile_loadd(6, b, 64);
        if constexpr (B > 1) _tile_loadd(7, b + 1024, 64);
        _tile_loadd(4, a0 + offset, row_bytes);
        if constexpr (A > 1) _tile_loadd(5, a1 + offset, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        simd::space_products();
        if constexpr (A > 1) {
          _tile_dpbf16ps(2, 5, 6);
          simd::space_products();
        }
        if constexpr (B > 1) {
          _tile_dpbf16ps(1, 4, 7);
          simd::space_products();
        }
        if constexpr (A > 1 && B > 1) _tile_dpbf16ps(3, 5, 7);
        if (W > 1) {
          const int rows_to = 16 * (w + 1) / W;
          for (int r = 16 * w / W; r < rows_to; ++r, near0 += row_bytes, near1 += row_bytes) {
            _mm_prefetch(near0, _MM_HINT_T0);
            if (A > 1) _mm_prefetch(near1, _MM_HINT_T0);
          }
        }
        pending.some(stores);
        for (int64_t i = 0; i < share; ++i, far += 64) _mm_prefetch(far, _MM_HINT_T1);
      }
    }
    _tile_stored(0, sums, sums_bytes);
    if (B > 1) _tile_stored(1, sums + 16, sums_bytes);
    if (A > 1) _tile_stored(2, sums + rows * panel, sums_bytes);
    if (A > 1 && B > 1) _tile_stored(3, sums + rows * panel + 16, sums_bytes);
    simd::fence(sums);
  }
};

}  // namespace

const Variant gemm_amx_bf16 = variant<AmxTile>("amx_bf16", Isa::amx, DType::bf16);

}  // namespace sdcore::gemm
