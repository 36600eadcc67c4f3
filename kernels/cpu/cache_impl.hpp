// Rotary embedding in place and the scatter into the cache's layouts, on the vectors of simd.hpp.
#include "cache.hpp"
#include "number.hpp"

namespace HFX_ISA {
namespace {

using hfx::RopeCall;
using hfx::WriteCall;

template <typename Number>
HFX_INLINE void rotate_halves(Number* head, const float* cosines, int half) {
  const float* sines = cosines + half;
  for (int i = 0; i < half; i += VL) {
    const int64_t count = half - i;
    const vf a = get_first(head + i, count), b = get_first(head + half + i, count);
    const vf cosine = get_first(cosines + i, count), sine = get_first(sines + i, count);
    put_first(head + i, sub(mul(a, cosine), mul(b, sine)), count);
    put_first(head + half + i, fma(b, cosine, mul(a, sine)), count);
  }
}

template <typename Number>
HFX_INLINE void rotate_neighbours(Number* head, const float* cosines, int half) {
  const float* sines = cosines + half;
  for (int i = 0; i < half; i += VL) {
    const int64_t count = half - i < VL ? half - i : VL;
    Number a[VL] = {}, b[VL] = {};
    for (int64_t j = 0; j < count; j++) {
      a[j] = head[2 * (i + j)];
      b[j] = head[2 * (i + j) + 1];
    }
    const vf first = get(a), second = get(b);
    const vf cosine = get_first(cosines + i, count), sine = get_first(sines + i, count);
    put(a, sub(mul(first, cosine), mul(second, sine)));
    put(b, fma(second, cosine, mul(first, sine)));
    for (int64_t j = 0; j < count; j++) {
      head[2 * (i + j)] = a[j];
      head[2 * (i + j) + 1] = b[j];
    }
  }
}

template <typename Number>
HFX_INLINE void rotate_heads(Number* row, int heads, const RopeCall& call, const float* cosines) {
  for (int h = 0; h < heads; h++) {
    Number* head = row + int64_t(h) * call.head_size;
    if (call.neox) rotate_halves(head, cosines, call.rotary / 2);
    else rotate_neighbours(head, cosines, call.rotary / 2);
  }
}

template <typename Number>
void rope(const RopeCall& call, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t++) {
    const float* cosines = call.table + int64_t(call.positions[t]) * call.rotary;
    rotate_heads((Number*)call.q + t * call.q_stride, call.query_heads, call, cosines);
    rotate_heads((Number*)call.k + t * call.k_stride, call.kv_heads, call, cosines);
  }
}

// Pairs (bf16): K's along the head, V's along the page, so a token owns half of each V pair.
template <bool PAIRS, typename Stored>
HFX_INLINE void write_token(const Stored* k, const Stored* v, Stored* cache_k, Stored* cache_v,
                            int64_t page_tokens, int64_t offset, int D) {
  if constexpr (PAIRS) {
    constexpr int BYTES = 2 * sizeof(Stored);
    for (int i = 0; i < D / 2; i++)
      memcpy(cache_k + (i * page_tokens + offset) * 2, k + 2 * i, BYTES);
    Stored* pair = cache_v + offset / 2 * D * 2 + offset % 2;
    for (int d = 0; d < D; d++) pair[2 * d] = v[d];
  } else {
    for (int d = 0; d < D; d++) cache_k[d * page_tokens + offset] = k[d];
    memcpy(cache_v + offset * D, v, sizeof(Stored) * D);
  }
}

// x / scale, rounded, in `stored`; returns the scale: `given`, or what makes the largest 127.
template <typename Number>
HFX_INLINE float quantise(const Number* x, int8_t* stored, int D, const float* given) {
  float scale = given ? *given : 1.f;
  if (!given) {
    vf peak = splat(0.f);
    for (int d = 0; d < D; d += VL) peak = max(peak, magnitude(get(x + d)));
    const float greatest_x = greatest(peak);
    if (greatest_x > 0.f) scale = greatest_x / 127.f;
  }
  for (int d = 0; d < D; d += VL) {
    const vf scaled = min(max(div(get(x + d), splat(scale)), splat(-127.f)), splat(127.f));
    store_int8(stored + d, round_to_int(scaled));
  }
  return scale;
}

constexpr int MOST_HEAD_SIZE = 1024;

template <typename Number>
void write_int8(const WriteCall& call, int64_t begin, int64_t end) {
  const int64_t page_tokens = call.page_tokens, D = call.head_size;
  int8_t k[MOST_HEAD_SIZE], v[MOST_HEAD_SIZE];
  for (int64_t t = begin; t < end; t++) {
    const int64_t page = call.slots[t] / page_tokens, offset = call.slots[t] % page_tokens;
    for (int h = 0; h < call.kv_heads; h++) {
      const int64_t head = page * call.kv_heads + h, at = head * page_tokens * D;
      const bool find = call.scale_per_token;
      const float k_scale = quantise((const Number*)call.k + t * call.k_stride + h * D, k, int(D),
                                     find ? nullptr : call.k_scale);
      const float v_scale = quantise((const Number*)call.v + t * call.v_stride + h * D, v, int(D),
                                     find ? nullptr : call.v_scale);
      if (find) {
        call.k_scale[head * page_tokens + offset] = k_scale;
        call.v_scale[head * page_tokens + offset] = v_scale;
      }
      write_token<sizeof(Number) == 2>(k, v, (int8_t*)call.cache_k + at, (int8_t*)call.cache_v + at,
                                       page_tokens, offset, int(D));
    }
  }
}

template <typename Number>
void write(const WriteCall& call, int64_t begin, int64_t end) {
  const int64_t page_numbers = int64_t(call.page_tokens) * call.head_size;
  for (int64_t t = begin; t < end; t++) {
    const int64_t page = call.slots[t] / call.page_tokens;
    const int64_t offset = call.slots[t] % call.page_tokens;
    const Number* k = (const Number*)call.k + t * call.k_stride;
    const Number* v = (const Number*)call.v + t * call.v_stride;
    for (int h = 0; h < call.kv_heads; h++) {
      const int64_t at = (page * call.kv_heads + h) * page_numbers;
      const int64_t head = int64_t(h) * call.head_size;
      write_token<sizeof(Number) == 2>(k + head, v + head, (Number*)call.cache_k + at,
                                       (Number*)call.cache_v + at, call.page_tokens, offset,
                                       call.head_size);
    }
  }
}

}  // namespace

void rope_range(const RopeCall& call, int64_t begin, int64_t end) {
  if (call.bf16) rope<uint16_t>(call, begin, end);
  else rope<float>(call, begin, end);
}

void write_range(const WriteCall& call, int64_t begin, int64_t end) {
  auto with = call.k_scale ? call.bf16 ? write_int8<uint16_t> : write_int8<float>
                           : call.bf16 ? write<uint16_t> : write<float>;
  with(call, begin, end);
}

}  // namespace HFX_ISA
