// Rotating queries and keys and writing keys and values to their slots: pointers and strides only.
// The cache's layouts are described in attend.hpp.
#pragma once
#include <cstdint>

namespace hfx {

struct RopeCall {
  void* q;
  void* k;
  int64_t q_stride, k_stride;  // numbers from one token to the next; heads are contiguous
  int32_t query_heads, kv_heads, head_size;
  const int32_t* positions;
  const float* table;  // [position][rotary]: cosines, then sines
  int32_t rotary;
  bool neox;  // pairs (i, i + rotary / 2), else (2 i, 2 i + 1)
  bool bf16;
};

struct WriteCall {
  const void* k;
  const void* v;
  int64_t k_stride, v_stride;
  void* cache_k;
  void* cache_v;
  const int64_t* slots;  // page * page_tokens + offset of each token
  float* k_scale;  // of a cache quantised to int8, else null: see attend.hpp
  float* v_scale;
  bool scale_per_token;  // it's found here, else given
  int32_t kv_heads, head_size, page_tokens;
  bool bf16;  // of k and v
};

using RopeRange = void (*)(const RopeCall&, int64_t begin, int64_t end);
using WriteRange = void (*)(const WriteCall&, int64_t begin, int64_t end);

}  // namespace hfx

#define HFX_DECLARE(ISA)                                                 \
  namespace ISA {                                                        \
  void rope_range(const hfx::RopeCall&, int64_t begin, int64_t end);     \
  void write_range(const hfx::WriteCall&, int64_t begin, int64_t end);   \
  }
HFX_DECLARE(hfx_avx2)
HFX_DECLARE(hfx_avx512)
HFX_DECLARE(hfx_avx512bf16)
#undef HFX_DECLARE
