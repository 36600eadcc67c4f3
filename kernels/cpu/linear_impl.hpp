// The packed linear layer's inner loops, written once on the vectors of simd.hpp.
#include "linear.hpp"
#include "simd.hpp"

namespace HFX_ISA {

using hfx::Epilogue;
using hfx::LinearCall;
using hfx::PANEL;

// Vectors across a panel that are computed in one pass: all, or, of AVX2's four, for more rows than
// a pass has registers for, the two that a gated layer multiplies with each other.
constexpr int columns_of(int rows) { return rows > 2 ? 2 : PANEL / VL; }
constexpr int passes_of(int rows) { return PANEL / VL / columns_of(rows); }
constexpr int64_t AHEAD_BYTES = 2048;  // how far the panel is fetched before its use

template <bool BF16>
struct Weights;

template <>
struct Weights<true> {
  using Number = uint16_t;
  using Column = vb;
  static constexpr int STEP = 2;  // inputs that one panel row holds
  HFX_INLINE Column column(const Number* p, int c) { return load_pairs(p + c * VL * 2); }
#if defined(__AVX512F__)
  using Input = uint16_t;
  static constexpr int MOST_ROWS = 12;  // 24 sums, 2 to 4 of the panel, 2 broadcasts: 30 of 32
  HFX_INLINE vf accumulate(vf acc, const Input* x, Column w) { return dot_pairs(acc, x, w); }
#else
  using Input = float;
  static constexpr int MOST_ROWS = 4;  // 8 sums, 4 halves, 2 broadcasts: 14 of 16
  HFX_INLINE vf accumulate(vf acc, const Input* x, Column w) {
    return fma(splat(x[1]), w.odd, fma(splat(x[0]), w.even, acc));
  }
#endif
};

template <>
struct Weights<false> {
  using Number = float;
  using Input = float;
  using Column = vf;
  static constexpr int STEP = 1;
#if defined(__AVX512F__)
  static constexpr int MOST_ROWS = 12;
#else
  static constexpr int MOST_ROWS = 6;  // 12 sums, 2 of the panel, 1 broadcast: 15 of 16
#endif
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
HFX_INLINE void finish(const LinearCall& call, int64_t row, int64_t panel, int pass,
                       vf acc[ROWS][columns_of(ROWS)]) {
  constexpr int COLUMNS = columns_of(ROWS), PASSES = passes_of(ROWS), HALF = COLUMNS / 2;
  const int64_t first = panel * PANEL + pass * VL;
  if (call.bias) {
    for (int c = 0; c < COLUMNS; c++) {
      const vf bias = load(call.bias + first + c * PASSES * VL);  // padded to whole panels
      for (int r = 0; r < ROWS; r++) acc[r][c] = add(acc[r][c], bias);
    }
  }
  if (call.epilogue == Epilogue::silu_mul) {
    const int64_t at = panel * (PANEL / 2) + pass * VL;
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < HALF; c++)
        put(call, row + r, at + c * VL, mul(silu(acc[r][c]), acc[r][HALF + c]), VL);
    return;
  }
  for (int c = 0; c < COLUMNS; c++) {
    const int64_t at = first + c * PASSES * VL;
    if (at < call.N)
      for (int r = 0; r < ROWS; r++) put(call, row + r, at, acc[r][c], call.N - at);
  }
}

template <bool BF16, int ROWS>
static void block(const LinearCall& call, int64_t row, int64_t panel, int pass) {
  constexpr int COLUMNS = columns_of(ROWS), PASSES = passes_of(ROWS);
  using W = Weights<BF16>;
  using Number = typename W::Number;
  const auto* x = (const typename W::Input*)call.x + row * call.x_stride;
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
    for (int c = 0; c < COLUMNS; c++) column[c] = W::column(w, pass + c * PASSES);
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < COLUMNS; c++)
        acc[r][c] = W::accumulate(acc[r][c], x + r * call.x_stride + k, column[c]);
  }
  finish<ROWS>(call, row, panel, pass, acc);
}

template <bool BF16, int ROWS>
static void dispatch(int rows, const LinearCall& call, int64_t row, int64_t panel) {
  if (rows == ROWS) {
    for (int pass = 0; pass < passes_of(ROWS); pass++) block<BF16, ROWS>(call, row, panel, pass);
    return;
  }
  if constexpr (ROWS > 1) dispatch<BF16, ROWS - 1>(rows, call, row, panel);
}

template <bool BF16>
static void range(const LinearCall& call, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                  int64_t panel_end) {
  constexpr int MOST_ROWS = Weights<BF16>::MOST_ROWS;
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
