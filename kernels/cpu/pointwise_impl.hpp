// RMSNorm and SiLU-mul, rounded where Hugging Face's models round, on the vectors of simd.hpp.
#include "number.hpp"
#include "pointwise.hpp"

namespace HFX_ISA {
namespace {

using hfx::NormCall;
using hfx::SiluCall;

template <typename Number>
HFX_INLINE float sum_of_squares(const Number* x, int64_t D) {
  vf total = splat(0.f), other = splat(0.f);
  int64_t i = 0;
  for (; i + 2 * VL <= D; i += 2 * VL) {
    const vf a = get(x + i), b = get(x + i + VL);
    total = fma(a, a, total);
    other = fma(b, b, other);
  }
  for (; i < D; i += VL) {
    const vf a = get_first(x + i, D - i);
    total = fma(a, a, total);
  }
  return sum(add(total, other));
}

template <typename Number>
HFX_INLINE void add_row(const Number* x, Number* residual, int64_t D) {
  for (int64_t i = 0; i < D; i += VL)
    put_first(residual + i, add(get_first(residual + i, D - i), get_first(x + i, D - i)), D - i);
}

template <typename Number>
HFX_INLINE void norm_row(const Number* x, const Number* weight, Number* y, int64_t D, float eps) {
  const vf inverse = splat(1.f / __builtin_sqrtf(sum_of_squares(x, D) / float(D) + eps));
  for (int64_t i = 0; i < D; i += VL) {
    const vf normal = rounded(mul(get_first(x + i, D - i), inverse), x);
    put_first(y + i, mul(normal, get_first(weight + i, D - i)), D - i);
  }
}

template <typename Number>
void norm(const NormCall& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const int64_t token = row / call.heads, head = row % call.heads;
    const Number* x = (const Number*)call.x + token * call.x_stride + head * call.x_head_stride;
    Number* y = (Number*)call.y + token * call.y_stride + head * call.y_head_stride;
    if (call.residual) {
      Number* residual = (Number*)call.residual + token * call.residual_stride;
      add_row(x, residual, call.D);
      x = residual;
    }
    norm_row(x, (const Number*)call.weight, y, call.D, call.eps);
  }
}

HFX_INLINE vf silu(vf x) {
  // exp(-|x|) never overflows: sigmoid(x) is 1 / (1 + e) for x >= 0 and e / (1 + e) below
  const vf magnitude = max(x, sub(splat(0.f), x));
  const vf e = exp2_of_negative(mul(magnitude, splat(-1.44269504f)));
  return div(max(x, mul(x, e)), add(splat(1.f), e));
}

template <typename Number>
void silu_mul(const SiluCall& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const Number* gate = (const Number*)call.gate_up + row * call.gate_up_stride;
    const Number* up = gate + call.F;
    Number* y = (Number*)call.y + row * call.y_stride;
    for (int64_t i = 0; i < call.F; i += VL) {
      const vf activated = rounded(silu(get_first(gate + i, call.F - i)), gate);
      put_first(y + i, mul(activated, get_first(up + i, call.F - i)), call.F - i);
    }
  }
}

}  // namespace

void norm_range(const NormCall& call, int64_t begin, int64_t end) {
  if (call.bf16) norm<uint16_t>(call, begin, end);
  else norm<float>(call, begin, end);
}

void silu_range(const SiluCall& call, int64_t begin, int64_t end) {
  if (call.bf16) silu_mul<uint16_t>(call, begin, end);
  else silu_mul<float>(call, begin, end);
}

}  // namespace HFX_ISA
