#include "cpu_level.hpp"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hfx {
namespace {

constexpr int ARCH_REQ_XCOMP_PERM = 0x1023;
constexpr int TILE_DATA = 18;  // the state component that holds tiles
constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;  // in edx of leaf 7

bool has_amx() {
#if defined(HFX_AMX)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & AMX_BF16) == 0 || (edx & AMX_TILE) == 0) return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return false;
#endif
}

}  // namespace

Level cpu_level() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return none;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!wide) return avx2;
  if (!__builtin_cpu_supports("avx512bf16")) return avx512;
  return has_amx() ? amx : avx512bf16;
}

}  // namespace hfx
