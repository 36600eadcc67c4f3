// The packed linear layer's inner loops, written once on the vectors of simd.hpp.
#include "linear.hpp"
#include "simd.hpp"

namespace HFX_ISA {

using hfx::Epilogue;
using hfx::LinearCall;
using hfx::PANEL;

constexpr int COLUMNS = PANEL / VL;  // vectors across a panel: 2 (AVX-512) or 4 (AVX2)
#if defined(__AVX512BF16__)
constexpr int MOST_ROWS = 12;  // 24 accumulators + 2 of the panel + 1 broadcast of 32 registers
#elif defined(__AVX512F__)
constexpr int MOST_ROWS = 12;
#else
constexpr int MOST_ROWS = 2;  // 8 accumulators of 16 registers
#endif
constexpr int64_t AHEAD_BYTES = 2048;  // how far the panel is fetched before its use

template <bool BF16>
struct Weights;

template <>
struct Weights<true> {
  using Number = uint16_t;
  using Column = vb;
  static constexpr int STEP = 2;  // inputs that one panel row holds
  HFX_INLINE Column column(const Number* p, int c) { return load_pairs(p + c * VL * 2); }
  HFX_INLINE vf accumulate(vf acc, const Number* x, Column w) { return dot_pairs(acc, x, w); }
};

template <>
struct Weights<false> {
  using Number = float;
  using Column = vf;
  static constexpr int STEP = 1;
  HFX_INLINE Column column(const Number* p, int c) { return load(p + c * VL); }
  HFX_INLINE vf accumulate(vf acc, const Number* x, Column w) { return fma(splat(*x), w, acc); }
};

HFX_INLINE vf silu(vf x) {
  // exp(-|x|) never overflows: sigmoid(x) is 1 / (1 + e) for x >= 0 and e / (1 + e) below.
  const vf magnitude = max(x, sub(splat(0.f), x));
  const vf e = exp2_of_negative(mul(magnitude, splat(-1.44269504f)));
  const vf numerator = max(x, mul(x, e));  // x for x >= 0; x e > x for x < 0
  return div(numerator, add(splat(1.f), e));
}

HFX_INLINE void put(const LinearCall& call, int64_t row, int64_t at, vf value, int64_t width) {
  const int64_t offset = row * call.y_stride + at;
  if (width >= VL) {
    if (call.bf16 && !call.y_fp32) store_bf16((uint16_t*)call.y + offset, value);
    else store((float*)call.y + offset, value);
    return;
  }
  float lane[VL];
  store(lane, value);
  for (int64_t i = 0; i < width; i++) {
    if (call.bf16 && !call.y_fp32) ((uint16_t*)call.y)[offset + i] = bf16_of(lane[i]);
    else ((float*)call.y)[offset + i] = lane[i];
  }
}

template <int ROWS>
HFX_INLINE void finish(const LinearCall& call, int64_t row, int64_t panel, vf acc[ROWS][COLUMNS]) {
  const int64_t first = panel * PANEL;
  if (call.bias) {
    for (int c = 0; c < COLUMNS; c++) {
      const vf bias = load(call.bias + first + c * VL);  // padded to whole panels
      for (int r = 0; r < ROWS; r++) acc[r][c] = add(acc[r][c], bias);
    }
  }
  if (call.epilogue == Epilogue::silu_mul) {
    constexpr int HALF = COLUMNS / 2;
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < HALF; c++)
        put(call, row + r, first / 2 + c * VL, mul(silu(acc[r][c]), acc[r][HALF + c]), VL);
    return;
  }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++)
      if (first + c * VL < call.N)
        put(call, row + r, first + c * VL, acc[r][c], call.N - first - c * VL);
}

template <bool BF16, int ROWS>
static void block(const LinearCall& call, int64_t row, int64_t panel) {
  using W = Weights<BF16>;
  using Number = typename W::Number;
  const Number* x = (const Number*)call.x + row * call.x_stride;
  const Number* w = (const Number*)call.panels + panel * PANEL * call.K;
  constexpr int64_t LINE = PANEL * W::STEP;  // numbers of one panel row
  vf acc[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++) acc[r][c] = splat(0.f);
  for (int64_t k = 0; k < call.K; k += W::STEP, w += LINE) {
    if constexpr (ROWS <= 4) {
      _mm_prefetch((const char*)w + AHEAD_BYTES, _MM_HINT_T0);
      _mm_prefetch((const char*)w + AHEAD_BYTES + 64, _MM_HINT_T0);
    }
    typename W::Column column[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) column[c] = W::column(w, c);
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++)
        acc[r][c] = W::accumulate(acc[r][c], x + r * call.x_stride + k, column[c]);
  }
  finish<ROWS>(call, row, panel, acc);
}

template <bool BF16, int ROWS>
static void dispatch(int rows, const LinearCall& call, int64_t row, int64_t panel) {
  if (rows == ROWS) return block<BF16, ROWS>(call, row, panel);
  if constexpr (ROWS > 1) dispatch<BF16, ROWS - 1>(rows, call, row, panel);
}

template <bool BF16>
static void range(const LinearCall& call, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                  int64_t panel_end) {
  const int64_t rows = row_end - row_begin;
  const int64_t blocks = (rows + MOST_ROWS - 1) / MOST_ROWS;
  for (int64_t panel = panel_begin; panel < panel_end; panel++) {
    int64_t row = row_begin;
    for (int64_t left = blocks; left > 0; left--) {  // balanced: 16 rows are 8 + 8, not 12 + 4
      const int take = int((row_end - row + left - 1) / left);
      dispatch<BF16, MOST_ROWS>(take, call, row, panel);
      row += take;
    }
  }
}

void linear_range(const LinearCall& call, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                  int64_t panel_end) {
  if (call.bf16) range<true>(call, row_begin, row_end, panel_begin, panel_end);
  else range<false>(call, row_begin, row_end, panel_begin, panel_end);
}

}  // namespace HFX_ISA
