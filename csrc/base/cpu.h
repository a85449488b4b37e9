// What the processor can do. The only CPUID in the project.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sdcore {

// Instruction-set levels, each containing those before it, but that processors with AVX-512 may
// lack AVX-VNNI. A kernel variant is written for one level and lives in a file named after it
// (…_avx2.cpp, …_avx2_vnni.cpp, …_avx512.cpp, …).
enum class Isa : int {
  generic = 0,      // portable C++
  avx2 = 1,         // AVX2, FMA, F16C
  avx2_vnni = 2,    // + AVX-VNNI
  avx512 = 3,       // AVX-512 F, BW, DQ, VL
  avx512_vnni = 4,  // + AVX-512 VNNI
  avx512_bf16 = 5,  // + AVX-512 BF16
  amx = 6,          // + AMX tiles with bf16 and int8, AVX-512 VBMI
};

const char* isa_name(Isa isa);
Isa parse_isa(std::string_view name);  // throws Error: unknown name

// The best level of this processor that the operating system permits (AMX tiles need its
// permission, which is asked for on the first call).
Isa hardware_isa();

// The fastest level: hardware_isa(), but avx512_vnni in place of avx512_bf16 on Intel's processors.
// (Where those have no AMX, or may not use it, vdpbf16ps multiplies half as fast as float32's fma:
// 85 and 178 GFLOP/s a thread of Sapphire Rapids.) Lowered or raised to SDCORE_ISA where that is
// set. Throws if SDCORE_ISA asks for more than the hardware has.
Isa default_isa();

// Whether this processor, held to a level, runs kernels that are written for `kernels`.
bool permits(Isa level, Isa kernels);

// Every level that this processor has, from generic to hardware_isa(): what a test should try.
std::vector<Isa> supported_isas();

struct CpuFeature {
  std::string name;
  bool present;
};
std::vector<CpuFeature> cpu_features();

// Processors this process may run on.
int available_cpus();

}  // namespace sdcore
