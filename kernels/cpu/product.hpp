// Products of a tile's rows with a page of keys or values, in registers, on the vectors of simd.hpp.
#pragma once
#include "simd.hpp"

#if defined(__AMX_BF16__) || defined(HFX_EMULATE_TILES)
#define HFX_TILES
#include "amx.hpp"
#endif

namespace HFX_ISA {
namespace {

// How a cache of one element type is multiplied. STEP numbers of the inner dimension lie together.
// Left is the type of the other factor: widened ahead of time where no instruction takes pairs.
template <bool BF16>
struct Cache;

template <>
struct Cache<false> {
  using Number = float;
  using Left = float;
  using Column = vf;
  static constexpr int STEP = 1;
#if defined(__AVX512F__)
  static constexpr int ROWS = 6, COLUMNS = 4;  // 24 sums, 4 columns, 1 broadcast: 29 of 32
#else
  static constexpr int ROWS = 6, COLUMNS = 2;  // 12 sums, 2 columns, 1 broadcast: 15 of 16
#endif
  HFX_INLINE Column column(const Number* p) { return load(p); }
  HFX_INLINE Column column(const int8_t* p) { return load_int8(p); }
  HFX_INLINE vf multiply(vf sum, const Left* a, Column b) { return fma(splat(*a), b, sum); }
  HFX_INLINE void put_left(Left* p, vf x) { store(p, x); }
  HFX_INLINE void put_left_two(Left* p, vf a, vf b) {
    store(p, a);
    store(p + VL, b);
  }
  HFX_INLINE void copy_left(Left* to, const Number* from, int n) { memcpy(to, from, n * 4); }
  HFX_INLINE void put(Number* p, vf x) { store(p, x); }
  template <bool FINITE>
  HFX_INLINE vf exp2(vf x) { return exp2_of_negative(x); }
};

template <>
struct Cache<true> {
  using Number = uint16_t;
  using Column = vb;
  static constexpr int STEP = 2;
  HFX_INLINE Column column(const Number* p) { return load_pairs(p); }
  HFX_INLINE Column column(const int8_t* p) { return load_int8_pairs(p); }
  HFX_INLINE void put(Number* p, vf x) { store_bf16(p, x); }
  template <bool FINITE>
  HFX_INLINE vf exp2(vf x) { return exp2_of_negative_coarse<FINITE>(x); }
#if defined(__AVX512BF16__)
  using Left = uint16_t;
  static constexpr int ROWS = 6, COLUMNS = 4;
  HFX_INLINE vf multiply(vf sum, const Left* a, Column b) { return dot_pairs(sum, a, b); }
  HFX_INLINE void put_left(Left* p, vf x) { store_bf16(p, x); }
  HFX_INLINE void put_left_two(Left* p, vf a, vf b) { store_two_bf16(p, a, b); }
  HFX_INLINE void copy_left(Left* to, const Number* from, int n) { memcpy(to, from, n * 2); }
#else
  using Left = float;
#if defined(__AVX512F__)
  static constexpr int ROWS = 4, COLUMNS = 4;  // 16 sums, 8 half columns, 2 broadcasts: 26 of 32
#else
  static constexpr int ROWS = 4, COLUMNS = 2;  // 8 sums, 4 half columns, 2 broadcasts: 14 of 16
#endif
  HFX_INLINE vf multiply(vf sum, const Left* a, Column b) {
    return fma(splat(a[1]), b.odd, fma(splat(a[0]), b.even, sum));
  }
  HFX_INLINE void put_left(Left* p, vf x) { store(p, x); }
  HFX_INLINE void put_left_two(Left* p, vf a, vf b) {
    store(p, a);
    store(p + VL, b);
  }
  HFX_INLINE void copy_left(Left* to, const Number* from, int n) {
    for (int i = 0; i < n; i += VL) store(to + i, load_bf16(from + i));
  }
#endif
};

// Rows and columns of sums that a block holds in registers. Widening int8 takes as long as the
// products of four rows, so that where there are registers for it, its blocks are high and narrow.
template <bool BF16, typename Stored>
constexpr int most_rows() {
  return sizeof(Stored) == 1 && VL == 16 ? 8 : Cache<BF16>::ROWS;
}
template <bool BF16, typename Stored>
constexpr int most_columns() {
  return sizeof(Stored) == 1 ? 2 : Cache<BF16>::COLUMNS;
}

// One product: C [rows][columns] = (C * alpha +) A [rows][steps * STEP] B [steps][columns * STEP].
// B is of the cache's type, or int8 that is widened as it's loaded.
template <bool BF16, typename Stored = typename Cache<BF16>::Number>
struct Product {
  using Left = typename Cache<BF16>::Left;
  const Left* a;
  int64_t a_stride;
  const Stored* b;
  int64_t b_stride;
  const Stored* tail;   // one more step of B that lies elsewhere, or null
  const Stored* ahead;  // B of the next product, fetched to L2 meanwhile, or null
  float* c;
  int64_t c_stride;
  const float* alpha;  // of each row, or null for 1
  int steps;
};

template <bool BF16, bool ADD, int ROWS, int COLUMNS, typename Stored>
HFX_INLINE void block(const Product<BF16, Stored>& p, int row, int column, const char* ahead,
                      const char* ahead_too) {
  using C = Cache<BF16>;
  constexpr int WIDTH = COLUMNS * VL * C::STEP * int(sizeof(Stored));  // bytes of a step
  constexpr int HALF = (WIDTH / 2 + 63) / 64 * 64;
  const auto* a = p.a + row * p.a_stride;
  const auto* b = p.b + column * C::STEP;
  float* c = p.c + row * p.c_stride + column;
  vf sums[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++) {
    const vf alpha = splat(!ADD ? 0.f : p.alpha ? p.alpha[row + i] : 1.f);
    for (int j = 0; j < COLUMNS; j++)
      sums[i][j] = ADD ? mul(load(c + i * p.c_stride + j * VL), alpha) : alpha;
  }
  auto step = [&](const typename C::Left* left, const Stored* right)
      __attribute__((always_inline)) {
    typename C::Column columns[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) columns[j] = C::column(right + j * VL * C::STEP);
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < COLUMNS; j++)
        sums[i][j] = C::multiply(sums[i][j], left + i * p.a_stride, columns[j]);
  };
  for (int k = 0; k < p.steps; k++) {
    step(a + k * C::STEP, b + k * p.b_stride);
    const int64_t at = k * p.b_stride * int64_t(sizeof(Stored));
    if (ahead)
      for (int byte = 0; byte < HALF; byte += 64) _mm_prefetch(ahead + at + byte, _MM_HINT_T1);
    if (ahead_too)
      for (int byte = HALF; byte < WIDTH; byte += 64)
        _mm_prefetch(ahead_too + at + byte, _MM_HINT_T1);
  }
  if (p.tail) step(a + p.steps * C::STEP, p.tail + column * C::STEP);
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) store(c + i * p.c_stride + j * VL, sums[i][j]);
}

template <bool BF16, bool ADD, int COLUMNS, typename Stored>
HFX_INLINE void column_block(const Product<BF16, Stored>& p, int rows, int column) {
  constexpr int MOST = most_rows<BF16, Stored>();
  // balanced: 8 rows are 4 + 4, not 6 + 2, because a small block waits for its loads
  int blocks = (rows + MOST - 1) / MOST;
  // the first two blocks fetch a half each of what lies ahead: a burst of it stops the core
  const auto* low = p.ahead ? (const char*)(p.ahead + column * Cache<BF16>::STEP) : nullptr;
  const auto* high = blocks == 1 ? low : nullptr;
  for (int row = 0; row < rows; blocks--) {
    const int count = (rows - row + blocks - 1) / blocks;
    switch (count) {
      case 8: if constexpr (MOST > 7) block<BF16, ADD, 8, COLUMNS>(p, row, column, low, high); break;
      case 7: if constexpr (MOST > 6) block<BF16, ADD, 7, COLUMNS>(p, row, column, low, high); break;
      case 6: if constexpr (MOST > 5) block<BF16, ADD, 6, COLUMNS>(p, row, column, low, high); break;
      case 5: if constexpr (MOST > 4) block<BF16, ADD, 5, COLUMNS>(p, row, column, low, high); break;
      case 4: block<BF16, ADD, 4, COLUMNS>(p, row, column, low, high); break;
      case 3: block<BF16, ADD, 3, COLUMNS>(p, row, column, low, high); break;
      case 2: block<BF16, ADD, 2, COLUMNS>(p, row, column, low, high); break;
      default: block<BF16, ADD, 1, COLUMNS>(p, row, column, low, high);
    }
    row += count;
    high = low;
    low = nullptr;
  }
}

template <bool BF16, bool ADD, typename Stored>
void multiply_vectors(const Product<BF16, Stored>& p, int rows, int begin, int columns) {
  int column = begin;
  if constexpr (most_columns<BF16, Stored>() == 4)
    for (; column + 4 * VL <= columns; column += 4 * VL)
      column_block<BF16, ADD, 4>(p, rows, column);
  for (; column + 2 * VL <= columns; column += 2 * VL) column_block<BF16, ADD, 2>(p, rows, column);
  for (; column < columns; column += VL) column_block<BF16, ADD, 1>(p, rows, column);
}

#if defined(HFX_TILES)
constexpr int PAIRED = 2 * TILE;  // rows and columns of a block of four tiles

// The part of a product that fills tiles; the rest, and the steps that fill none, by vectors.
template <bool ADD>
void multiply_tiles(const Product<true>& p, int rows, int columns) {
  const int tile_rows = rows / PAIRED * PAIRED, tile_columns = columns / PAIRED * PAIRED;
  const int steps = p.steps / TILE * TILE;
  for (int row = 0; row < tile_rows; row++)
    for (int column = 0; column < tile_columns; column += VL) {
      float* c = p.c + row * p.c_stride + column;
      store(c, ADD ? mul(load(c), splat(p.alpha[row])) : splat(0.f));
    }
  const TileShapes shapes;
  HFX_TILE_SHAPES(&shapes);
  for (int column = 0; column < tile_columns; column += PAIRED)
    for (int row = 0; row < tile_rows; row += PAIRED)
      tile_block(p.a + row * p.a_stride, p.a_stride, p.b + column * 2, p.b_stride,
                 p.c + row * p.c_stride + column, p.c_stride, steps);
  HFX_TILE_RELEASE();
  Product<true> rest = p;
  rest.a += steps * 2;
  rest.b += steps * p.b_stride;
  rest.steps -= steps;
  rest.alpha = nullptr;  // applied above
  if (p.ahead) rest.ahead = p.ahead + steps * p.b_stride;
  if (rest.steps || p.tail) multiply_vectors<true, true>(rest, tile_rows, 0, tile_columns);
  multiply_vectors<true, ADD>(p, tile_rows, tile_columns, columns);
  rest = p;
  rest.a += tile_rows * p.a_stride;
  rest.c += tile_rows * p.c_stride;
  if (ADD) rest.alpha += tile_rows;
  multiply_vectors<true, ADD>(rest, rows - tile_rows, 0, columns);
}
#endif

template <bool BF16, bool ADD, typename Stored>
void multiply(const Product<BF16, Stored>& p, int rows, int columns) {
#if defined(HFX_TILES)
  if constexpr (BF16 && sizeof(Stored) == 2)
    if (rows >= PAIRED && columns >= PAIRED && p.steps >= TILE)
      return multiply_tiles<ADD>(p, rows, columns);
#endif
  multiply_vectors<BF16, ADD>(p, rows, 0, columns);
}

}  // namespace
}  // namespace HFX_ISA
