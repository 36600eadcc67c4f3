// Products in tiles of 16 x 16 sums (AMX), on the layouts of attend.hpp as they are.
//
// Where the compiler lacks AMX, HFX_EMULATE_TILES puts the same instructions' arithmetic in their
// place, so that the loops around them can be tested on any processor.
#pragma once
#include "simd.hpp"

namespace HFX_ISA {
namespace {

constexpr int TILE = 16;  // rows, columns, and pairs of the inner dimension

struct alignas(64) TileShapes {  // the operand of ldtilecfg
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE};
};

#if defined(HFX_EMULATE_TILES)
struct Emulated {
  alignas(64) char bytes[TILE][64];
};
inline thread_local Emulated emulated[8];
HFX_INLINE void tile_load(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < TILE; row++)
    memcpy(emulated[tile].bytes[row], (const char*)from + row * stride, 64);
}
HFX_INLINE void tile_store(int tile, void* to, int64_t stride) {
  for (int row = 0; row < TILE; row++)
    memcpy((char*)to + row * stride, emulated[tile].bytes[row], 64);
}
HFX_INLINE void tile_dot(int c, int a, int b) {  // tdpbf16ps
  for (int row = 0; row < TILE; row++)
    for (int pair = 0; pair < TILE; pair++)
      for (int column = 0; column < TILE; column++) {
        const auto* left = (const uint16_t*)emulated[a].bytes[row] + 2 * pair;
        const auto* right = (const uint16_t*)emulated[b].bytes[pair] + 2 * column;
        float& sum = ((float*)emulated[c].bytes[row])[column];
        sum += float_of(left[0]) * float_of(right[0]);
        sum += float_of(left[1]) * float_of(right[1]);
      }
}
#define HFX_TILE_SHAPES(shapes) (void)(shapes)
#define HFX_TILE_LOAD(tile, from, stride) tile_load(tile, from, stride)
#define HFX_TILE_STORE(tile, to, stride) tile_store(tile, to, stride)
#define HFX_TILE_DOT(c, a, b) tile_dot(c, a, b)
#define HFX_TILE_RELEASE() (void)0
#else  // macros: a tile's number is part of the instruction
#define HFX_TILE_SHAPES(shapes) _tile_loadconfig(shapes)
#define HFX_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define HFX_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define HFX_TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)
#define HFX_TILE_RELEASE() _tile_release()
#endif

// C [32][32] += A [32][pairs * 2] B [pairs][32 * 2] for a multiple of TILE pairs.
HFX_INLINE void tile_block(const uint16_t* a, int64_t a_stride, const uint16_t* b,
                           int64_t b_stride, float* c, int64_t c_stride, int pairs) {
  const int64_t a_bytes = a_stride * 2, b_bytes = b_stride * 2, c_bytes = c_stride * 4;
  float* below = c + TILE * c_stride;
  HFX_TILE_LOAD(0, c, c_bytes);
  HFX_TILE_LOAD(1, c + TILE, c_bytes);
  HFX_TILE_LOAD(2, below, c_bytes);
  HFX_TILE_LOAD(3, below + TILE, c_bytes);
  for (int pair = 0; pair < pairs; pair += TILE) {
    HFX_TILE_LOAD(4, a + 2 * pair, a_bytes);
    HFX_TILE_LOAD(5, a + TILE * a_stride + 2 * pair, a_bytes);
    HFX_TILE_LOAD(6, b + pair * b_stride, b_bytes);
    HFX_TILE_LOAD(7, b + pair * b_stride + 2 * TILE, b_bytes);
    HFX_TILE_DOT(0, 4, 6);
    HFX_TILE_DOT(1, 4, 7);
    HFX_TILE_DOT(2, 5, 6);
    HFX_TILE_DOT(3, 5, 7);
  }
  HFX_TILE_STORE(0, c, c_bytes);
  HFX_TILE_STORE(1, c + TILE, c_bytes);
  HFX_TILE_STORE(2, below, c_bytes);
  HFX_TILE_STORE(3, below + TILE, c_bytes);
}

}  // namespace
}  // namespace HFX_ISA
