#include "cpu_level.hpp"

namespace hfx {

Level cpu_level() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return none;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!wide) return avx2;
  return __builtin_cpu_supports("avx512bf16") ? avx512bf16 : avx512;
}

}  // namespace hfx
