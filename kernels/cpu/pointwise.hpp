// RMSNorm and SiLU-mul over rows: pointers and strides only.
#pragma once
#include <cstdint>

namespace hfx {

struct NormCall {  // y = x / rms(x) * weight over D; rows are tokens times heads
  const void* x;
  const void* weight;
  void* residual;  // x is added to it, and the sum is normalised; or null
  void* y;
  int64_t heads, x_stride, x_head_stride, residual_stride, y_stride, y_head_stride;
  int64_t D;
  float eps;
  bool bf16;
};

struct SiluCall {  // y = silu(gate) * up; a row holds F gates, then F ups
  const void* gate_up;
  void* y;
  int64_t gate_up_stride, y_stride, F;
  bool bf16;
};

using NormRange = void (*)(const NormCall&, int64_t begin, int64_t end);
using SiluRange = void (*)(const SiluCall&, int64_t begin, int64_t end);

}  // namespace hfx

#define HFX_DECLARE(ISA)                                               \
  namespace ISA {                                                      \
  void norm_range(const hfx::NormCall&, int64_t begin, int64_t end);   \
  void silu_range(const hfx::SiluCall&, int64_t begin, int64_t end);   \
  }
HFX_DECLARE(hfx_avx2)
HFX_DECLARE(hfx_avx512)
HFX_DECLARE(hfx_avx512bf16)
#undef HFX_DECLARE
