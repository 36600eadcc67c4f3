// From a page's scores to probabilities, online: a tile's rows keep a maximum and a weight each.
#pragma once
#include "attend.hpp"
#include "product.hpp"

namespace HFX_ISA {
namespace {

using hfx::AttendCall;

constexpr float MINUS_INFINITY = -__builtin_inff();

// x in lanes first to last - 1, minus infinity elsewhere.
HFX_INLINE vf only_lanes(vf x, int first, int last) {
#if defined(__AVX512F__)
  const uint32_t below_last = last <= 0 ? 0 : last >= VL ? 0xffff : (1u << last) - 1;
  const uint32_t below_first = first <= 0 ? 0 : first >= VL ? 0xffff : (1u << first) - 1;
  return _mm512_mask_mov_ps(splat(MINUS_INFINITY), __mmask16(below_last & ~below_first), x);
#else
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i inside = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                                          _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
  return _mm256_blendv_ps(splat(MINUS_INFINITY), x, _mm256_castsi256_ps(inside));
#endif
}

// x in the first lanes, 0 elsewhere.
HFX_INLINE vf first_lanes(vf x, int count) {
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(__mmask16(count >= VL ? 0xffff : (1u << count) - 1), x);
#else
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)));
#endif
}

HFX_INLINE int smaller(int a, int b) { return a < b ? a : b; }
HFX_INLINE int larger(int a, int b) { return a > b ? a : b; }

// The tile's working memory, cut out of the thread's scratch.
template <bool BF16>
struct Room {
  using Left = typename Cache<BF16>::Left;
  float *scores, *out, *maximum, *weight, *alpha, *total;
  Left *queries, *probabilities;
  typename Cache<BF16>::Number *last_v, *page;  // a quantised cache's page, widened
  float *k_scales, *v_scales;                   // and its scales, 0 behind the last key

  Room(char* at, int64_t rows, int64_t head_size, int64_t page_tokens) {
    auto take = [&at](int64_t bytes) {
      char* here = at;
      at += (bytes + 63) / 64 * 64;
      return here;
    };
    scores = (float*)take(rows * page_tokens * 4);
    out = (float*)take(rows * head_size * 4);
    queries = (Left*)take(rows * head_size * sizeof(Left));
    probabilities = (Left*)take(rows * page_tokens * sizeof(Left));
    maximum = (float*)take(rows * 4);
    weight = (float*)take(rows * 4);
    alpha = (float*)take(rows * 4);
    total = (float*)take(rows * 4);
    last_v = (typename Cache<BF16>::Number*)take(head_size * 4);
    k_scales = (float*)take(page_tokens * 4);
    v_scales = (float*)take(page_tokens * 4);
    page = (typename Cache<BF16>::Number*)take(page_tokens * head_size * 4);
  }
};

// Turns a row of scores (of keys first to last - 1; `columns` are stored) into probabilities.
// Leaves in alpha the step of the maximum and in total the row's sum, for `rescale`.
template <bool BF16, bool INT8>
HFX_INLINE void softmax_row(const AttendCall& call, const Room<BF16>& room, int row, int columns,
                            int first, int last) {
  const int64_t page_tokens = call.page_tokens;
  const vf scale = splat(call.scale), cap = splat(call.cap_log2);
  const bool capped = call.cap_log2 > 0.f;
  float* scores = room.scores + row * page_tokens;
  typename Cache<BF16>::Left* probabilities = room.probabilities + row * page_tokens;
  if (last <= first) {  // the row sees nothing of this page
    for (int j = 0; j < columns; j += VL) Cache<BF16>::put_left(probabilities + j, splat(0.f));
    room.alpha[row] = room.total[row] = 0.f;
    return;
  }
  const float before = room.maximum[row];
  const bool whole = first <= 0 && last >= columns;
  const bool plain = !INT8 && whole && !capped && call.scale > 0.f;  // scaled in the second pass
  vf highest = splat(plain ? MINUS_INFINITY : before);
  for (int j = 0; j < columns; j += VL) {
    vf score = load(scores + j);
    if (!plain) {
      score = mul(score, INT8 ? load(room.k_scales + j) : scale);
      if (capped) score = mul(tanh(score), cap);
      if (!whole) score = only_lanes(score, first - j, last - j);
      store(scores + j, score);
    }
    highest = max(highest, score);
  }
  float maximum = greatest(highest);
  if (plain) maximum = maximum * call.scale > before ? maximum * call.scale : before;
  const vf factor = plain ? scale : splat(1.f), shift = splat(-maximum);
  vf total = splat(0.f);
  for (int j = 0; j < columns; j += VL) {
    const vf probability = Cache<BF16>::template exp2<false>(fma(load(scores + j), factor, shift));
    total = add(total, probability);
    Cache<BF16>::put_left(probabilities + j,
                          INT8 ? mul(probability, load(room.v_scales + j)) : probability);
  }
  room.maximum[row] = maximum;
  room.alpha[row] = before - maximum;
  room.total[row] = sum(total);
}

// The same for four rows that see the whole page, without a cap: their reductions share
// instructions. `fetch(row)` is called after each.
template <bool BF16, bool INT8, typename Fetch>
HFX_INLINE void softmax_four(const AttendCall& call, const Room<BF16>& room, int row, int columns,
                             const Fetch& fetch) {
  const int64_t page_tokens = call.page_tokens;
  const vf scale = splat(call.scale);
  const float* scores = room.scores + row * page_tokens;
  vf highest[4], total[4];
  for (int i = 0; i < 4; i++) highest[i] = splat(MINUS_INFINITY);
  for (int j = 0; j < columns; j += VL)
    for (int i = 0; i < 4; i++) {
      const vf score = load(scores + i * page_tokens + j);
      highest[i] = max(highest[i], INT8 ? mul(score, load(room.k_scales + j)) : score);
    }
  float peaks[4];
  greatest_of_four(highest, peaks);
  for (int i = 0; i < 4; i++) {
    const float before = room.maximum[row + i], peak = INT8 ? peaks[i] : peaks[i] * call.scale;
    room.maximum[row + i] = peak > before ? peak : before;
    room.alpha[row + i] = before - room.maximum[row + i];
  }
  for (int i = 0; i < 4; i++) {
    const vf shift = splat(-room.maximum[row + i]);
    auto* probabilities = room.probabilities + (row + i) * page_tokens;
    total[i] = splat(0.f);
    auto at = [&](int j) __attribute__((always_inline)) {
      const vf factor = INT8 ? load(room.k_scales + j) : scale;
      const vf score = fma(load(scores + i * page_tokens + j), factor, shift);
      const vf probability = Cache<BF16>::template exp2<true>(score);
      total[i] = add(total[i], probability);
      return INT8 ? mul(probability, load(room.v_scales + j)) : probability;
    };
    int j = 0;
    for (; j + 2 * VL <= columns; j += 2 * VL) {
      const vf one = at(j), other = at(j + VL);
      Cache<BF16>::put_left_two(probabilities + j, one, other);
    }
    for (; j < columns; j += VL) Cache<BF16>::put_left(probabilities + j, at(j));
    fetch(row + i);
  }
  sum_of_four(total, room.total + row);
}

// All rows of a tile whose first token is `position` keys behind the page's first.
template <bool BF16, bool INT8, typename Fetch>
HFX_INLINE void softmax_page(const AttendCall& call, const Room<BF16>& room, int rows,
                             int position, int valid, int columns, const Fetch& fetch) {
  auto first = [&](int row) {
    return call.window ? larger(0, position + row / call.group - call.window + 1) : 0;
  };
  const bool plain = call.cap_log2 == 0.f && call.scale > 0.f;
  for (int row = 0; row < rows;) {
    const int last = smaller(valid, position + row / call.group + 1);
    if (plain && row + 4 <= rows && last >= columns && first(row + 3) == 0) {
      softmax_four<BF16, INT8>(call, room, row, columns, fetch);
      row += 4;
    } else {
      softmax_row<BF16, INT8>(call, room, row, columns, first(row), last);
      fetch(row++);
    }
  }
}

// What the old sums of each row are worth beside its new maximum.
template <bool BF16>
HFX_INLINE void rescale(const Room<BF16>& room, int rows) {
  for (int row = 0; row < rows; row += VL) {  // the arrays are padded to cache lines
    const vf alpha = exp2_of_negative(load(room.alpha + row));
    store(room.alpha + row, alpha);
    store(room.weight + row, fma(load(room.weight + row), alpha, load(room.total + row)));
  }
}

// The scales of a page's keys and values, each key's with the factor of all scores; 0 behind the
// last key, where the cache may hold NaN.
template <bool BF16>
HFX_INLINE void take_scales(const AttendCall& call, int64_t first, int valid, int columns,
                            const Room<BF16>& room) {
  const bool many = call.scale_per_token;
  for (int j = 0; j < columns; j += VL) {
    const vf k = many ? load(call.k_scale + first + j) : splat(*call.k_scale);
    const vf v = many ? load(call.v_scale + first + j) : splat(*call.v_scale);
    store(room.k_scales + j, mul(first_lanes(k, valid - j), splat(call.scale)));
    store(room.v_scales + j, first_lanes(v, valid - j));
  }
}

}  // namespace
}  // namespace HFX_ISA
