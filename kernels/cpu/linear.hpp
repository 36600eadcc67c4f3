// What a packed linear layer is, for every instruction set: pointers and strides only.
//
// Dimension key
//   M  rows of x (tokens)    K  inputs    N  outputs    PANEL  outputs that one panel holds
// A weight [N, K] is stored as ceil(N / PANEL) panels, one after the other, each [K / 2][PANEL][2]
// in bf16 (the pairs that vdpbf16ps takes) or [K][PANEL] in fp32; outputs past N are zero columns.
#pragma once
#include <cstdint>

namespace hfx {

constexpr int PANEL = 32;

enum class Epilogue : int32_t {
  none = 0,
  silu_mul = 1,  // panels hold 16 gates, then their 16 ups: y = silu(gate) * up, N / 2 outputs
};

struct LinearCall {
  const void* x;  // as the panels; fp32 for AVX2: widening it for every panel took half the time
  const void* panels;
  const float* bias;  // [N] in the order of the panels' columns, or null
  void* y;
  int64_t x_stride, y_stride;  // elements from one row to the next
  int64_t M, K, N;
  bool bf16;      // the panels; else fp32
  bool y_fp32;    // y is fp32 although x is bf16
  Epilogue epilogue;
  int threads;
};

using LinearRange = void (*)(const LinearCall&, int64_t row_begin, int64_t row_end,
                             int64_t panel_begin, int64_t panel_end);

}  // namespace hfx

namespace hfx_avx2 {
void linear_range(const hfx::LinearCall&, int64_t, int64_t, int64_t, int64_t);
}
namespace hfx_avx512 {
void linear_range(const hfx::LinearCall&, int64_t, int64_t, int64_t, int64_t);
}
namespace hfx_avx512bf16 {
void linear_range(const hfx::LinearCall&, int64_t, int64_t, int64_t, int64_t);
}
