#include "base/cpu.h"

#include <array>
#include <thread>

#include "base/env.h"
#include "base/error.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#define SDCORE_X86 1
#include <cpuid.h>
#endif

namespace sdcore {
namespace {

constexpr std::array<const char*, 7> kIsaNames = {
    "generic", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"};

struct Features {
  bool intel = false;
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false;
  bool avx512_vnni = false, avx512_vbmi = false, avx512_bf16 = false, avx512_fp16 = false;
  bool avx_vnni = false;
  bool amx_tile = false, amx_bf16 = false, amx_int8 = false;
};

#if defined(SDCORE_X86)

bool bit(unsigned value, int index) { return (value >> index) & 1u; }

unsigned long long read_xcr0() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

// Linux hands out AMX tile state only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM).
bool tiles_permitted() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features f;
  unsigned a, b, c, d;
  if (__get_cpuid(0, &a, &b, &c, &d)) f.intel = b == signature_INTEL_ebx;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return f;  // no OSXSAVE: no vector state
  const unsigned long long xcr0 = read_xcr0();
  const bool ymm = (xcr0 & 0x6) == 0x6;
  const bool zmm = (xcr0 & 0xe6) == 0xe6;
  const bool tiles = (xcr0 & 0x60000) == 0x60000;
  f.fma = ymm && bit(c, 12);
  f.f16c = ymm && bit(c, 29);
  unsigned leaves = 0;
  if (!__get_cpuid_count(7, 0, &leaves, &b, &c, &d)) return f;
  f.avx2 = ymm && bit(b, 5);
  f.avx512f = zmm && bit(b, 16);
  f.avx512dq = zmm && bit(b, 17);
  f.avx512bw = zmm && bit(b, 30);
  f.avx512vl = zmm && bit(b, 31);
  f.avx512_vbmi = zmm && bit(c, 1);
  f.avx512_vnni = zmm && bit(c, 11);
  f.avx512_fp16 = zmm && bit(d, 23);
  f.amx_bf16 = tiles && bit(d, 22);
  f.amx_tile = tiles && bit(d, 24);
  f.amx_int8 = tiles && bit(d, 25);
  if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    f.avx_vnni = ymm && bit(a, 4);
    f.avx512_bf16 = zmm && bit(a, 5);
  }
  if (f.amx_tile && !tiles_permitted()) f.amx_tile = f.amx_bf16 = f.amx_int8 = false;
  return f;
}

#else

Features detect() { return {}; }

#endif

const Features& features() {
  static const Features found = detect();
  return found;
}

}  // namespace

const char* isa_name(Isa isa) { return kIsaNames[static_cast<size_t>(isa)]; }

Isa parse_isa(std::string_view name) {
  for (size_t i = 0; i < kIsaNames.size(); ++i) {
    if (name == kIsaNames[i]) return static_cast<Isa>(i);
  }
  fail(ErrorKind::invalid_argument, "[isa] unknown level '", name,
       "'; use generic, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16 or amx");
}

Isa hardware_isa() {
  const Features& f = features();
  Isa best = Isa::generic;
#if defined(SDCORE_HAVE_X86_KERNELS)
  if (!(f.avx2 && f.fma && f.f16c)) return best;
  best = f.avx_vnni ? Isa::avx2_vnni : Isa::avx2;
  if (!(f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl)) return best;
  best = Isa::avx512;
  if (!f.avx512_vnni) return best;
  best = Isa::avx512_vnni;
  if (!f.avx512_bf16) return best;
  best = Isa::avx512_bf16;
  if (f.amx_tile && f.amx_bf16 && f.amx_int8 && f.avx512_vbmi) best = Isa::amx;
#else
  (void)f;
#endif
  return best;
}

Isa default_isa() {
  const Isa hardware = hardware_isa();
  const auto forced = env::isa();
  if (!forced) {
    return hardware == Isa::avx512_bf16 && features().intel ? Isa::avx512_vnni : hardware;
  }
  const Isa wanted = parse_isa(*forced);
  require(permits(hardware, wanted), ErrorKind::invalid_argument, "[isa] SDCORE_ISA=", *forced,
          " is more than this processor has (", isa_name(hardware), ")");
  return wanted;
}

bool permits(Isa level, Isa kernels) {
  return kernels <= level && (kernels != Isa::avx2_vnni || features().avx_vnni);
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> levels;
  for (int i = 0; i <= static_cast<int>(hardware_isa()); ++i) {
    if (permits(hardware_isa(), static_cast<Isa>(i))) levels.push_back(static_cast<Isa>(i));
  }
  return levels;
}

std::vector<CpuFeature> cpu_features() {
  const Features& f = features();
  return {{"avx2", f.avx2},
          {"fma", f.fma},
          {"f16c", f.f16c},
          {"avx512f", f.avx512f},
          {"avx512bw", f.avx512bw},
          {"avx512dq", f.avx512dq},
          {"avx512vl", f.avx512vl},
          {"avx512_vnni", f.avx512_vnni},
          {"avx512_vbmi", f.avx512_vbmi},
          {"avx512_bf16", f.avx512_bf16},
          {"avx512_fp16", f.avx512_fp16},
          {"avx_vnni", f.avx_vnni},
          {"amx_tile", f.amx_tile},
          {"amx_bf16", f.amx_bf16},
          {"amx_int8", f.amx_int8}};
}

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

}  // namespace sdcore
