// One attention tile, written once on the vectors of simd.hpp.
//
// Online softmax over the tile's pages: scores = Q K of a page, probabilities, out = out * alpha +
// P V. Unwritten slots may hold NaN: their scores are overwritten before anything reads them, and
// their V rows are never multiplied, because 0 * NaN is NaN.
#include "attend.hpp"
#include "product.hpp"

extern "C" float exp2f(float);

namespace HFX_ISA {
namespace {

using hfx::AttendCall;
using hfx::Reduction;
using hfx::WorkItem;

constexpr float MINUS_INFINITY = -__builtin_inff();
constexpr float LOG2_E = 1.44269504f;

template <bool CONDITION, typename True, typename False>
struct Choice {  // std::conditional: no std template may be instantiated here
  using Type = True;
};
template <typename True, typename False>
struct Choice<false, True, False> {
  using Type = False;
};

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
    const vf probability = Cache<BF16>::exp2(fma(load(scores + j), factor, shift));
    total = add(total, probability);
    Cache<BF16>::put_left(probabilities + j,
                          INT8 ? mul(probability, load(room.v_scales + j)) : probability);
  }
  room.maximum[row] = maximum;
  room.alpha[row] = before - maximum;
  room.total[row] = sum(total);
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

// The last V row of a page with an odd number of keys, its second half zeroed.
template <bool BF16>
HFX_INLINE const typename Cache<BF16>::Number* last_row(const Room<BF16>& room,
                                                        const typename Cache<BF16>::Number* v,
                                                        int valid, int head_size) {
  if (Cache<BF16>::STEP == 1 || valid % 2 == 0) return nullptr;
  const auto* row = v + int64_t(valid / 2) * head_size * 2;
  for (int d = 0; d < head_size; d++) {
    room.last_v[2 * d] = row[2 * d];
    room.last_v[2 * d + 1] = 0;
  }
  return room.last_v;
}

template <bool BF16>
HFX_INLINE void start(const AttendCall& call, const WorkItem& item, int32_t head,
                      const Room<BF16>& room) {
  const int rows = item.queries * call.group, D = call.head_size;
  const auto* q = (const typename Cache<BF16>::Number*)call.q;
  for (int row = 0; row < rows; row++) {
    const int64_t token = item.query_row + row / call.group;
    const int64_t query_head = int64_t(head) * call.group + row % call.group;
    const auto* from = q + token * call.q_stride + query_head * D;
    Cache<BF16>::copy_left(room.queries + int64_t(row) * D, from, D);
    const bool sinks = call.sinks && item.flags & hfx::FIRST;
    room.maximum[row] = sinks ? call.sinks[query_head] * LOG2_E : MINUS_INFINITY;
    room.weight[row] = sinks ? 1.f : 0.f;
  }
  memset(room.out, 0, sizeof(float) * rows * D);
}

template <bool BF16>
HFX_INLINE void finish(const AttendCall& call, const WorkItem& item, int32_t head,
                       const Room<BF16>& room) {
  const int rows = item.queries * call.group, D = call.head_size;
  if (item.slot >= 0) {
    const int64_t first = (int64_t(item.slot) * call.kv_heads + head) * call.partial_rows;
    memcpy(call.partial + first * D, room.out, sizeof(float) * rows * D);
    for (int row = 0; row < rows; row++) {
      call.partial_stats[(first + row) * 2] = room.maximum[row];
      call.partial_stats[(first + row) * 2 + 1] = room.weight[row];
    }
    return;
  }
  auto* out = (typename Cache<BF16>::Number*)call.out;
  for (int row = 0; row < rows; row++) {
    const int64_t token = item.query_row + row / call.group;
    const int64_t query_head = int64_t(head) * call.group + row % call.group;
    auto* to = out + token * call.out_stride + query_head * D;
    const vf inverse = splat(1.f / room.weight[row]);
    const float* from = room.out + int64_t(row) * D;
    for (int d = 0; d < D; d += VL) Cache<BF16>::put(to + d, mul(load(from + d), inverse));
  }
}

// The scales of a page's keys and values, each key's with the factor of all scores.
template <bool BF16>
HFX_INLINE void take_scales(const AttendCall& call, int64_t first, int valid, int columns,
                            const Room<BF16>& room) {
  for (int j = 0; j < columns; j++) {
    const int64_t at = call.scale_per_token ? first + j : 0;
    room.k_scales[j] = j < valid ? call.k_scale[at] * call.scale : 0.f;
    room.v_scales[j] = j < valid ? call.v_scale[at] : 0.f;
  }
}

// Numbers of a quantised page as they're multiplied; their scales come later.
template <bool BF16>
HFX_INLINE const typename Cache<BF16>::Number* widen(const int8_t* from, const int8_t* ahead,
                                                     int64_t count, const Room<BF16>& room) {
  for (int64_t i = 0; i < count; i += VL) {
    Cache<BF16>::put(room.page + i, load_int8(from + i));
    if (ahead && i % 64 == 0) _mm_prefetch((const char*)ahead + i, _MM_HINT_T1);
  }
  return room.page;
}

// Fetched of the next V while a row's probabilities are computed: memory is idle then, and a burst of
// more fetches than it takes in that time stops the core.
constexpr int64_t FETCH_BYTES = 1024;

HFX_INLINE void fetch_ahead(const void* from) {
  for (int64_t at = 0; at < FETCH_BYTES; at += 64)
    _mm_prefetch((const char*)from + at, _MM_HINT_T1);
}

template <bool BF16, bool INT8>
void tile(const AttendCall& call, const WorkItem& item, int32_t head, int32_t next_head,
          char* scratch) {
  using Number = typename Cache<BF16>::Number;
  using Stored = typename Choice<INT8, int8_t, Number>::Type;
  constexpr int STEP = Cache<BF16>::STEP;
  const int rows = item.queries * call.group, D = call.head_size, page_tokens = call.page_tokens;
  const Room<BF16> room(scratch, rows, D, page_tokens);
  const int64_t page_bytes = int64_t(page_tokens) * D * sizeof(Number);
  const int32_t* pages = call.table + item.sequence * call.table_stride;
  auto offset = [&](int key, int32_t of_head) {
    return (int64_t(pages[key / page_tokens]) * call.kv_heads + of_head) * page_tokens * D;
  };
  start<BF16>(call, item, head, room);
  for (int key = item.kv_begin; key < item.kv_end; key += page_tokens) {
    const int64_t here = offset(key, head);
    const Stored* stored_k = (const Stored*)call.k + here;
    const Stored* stored_v = (const Stored*)call.v + here;
    const int next = key + page_tokens;
    const bool more = next < item.kv_end;
    const int64_t ahead = more ? offset(next, head) : offset(item.kv_begin, next_head);
    const bool fetch = more || next_head != head;
    const Stored* next_k = fetch ? (const Stored*)call.k + ahead : nullptr;
    const Stored* next_v = fetch ? (const Stored*)call.v + ahead : nullptr;
    const int valid = smaller(page_tokens, item.kv_end - key);
    const int columns = (valid + VL - 1) / VL * VL;
    const Number *k, *v, *fetch_k = nullptr, *fetch_v = nullptr;
    if constexpr (INT8) {
      take_scales<BF16>(call, here / D, valid, columns, room);
      k = widen<BF16>(stored_k, next_k, int64_t(page_tokens) * D, room);
    } else {
      k = stored_k;
      fetch_k = next_k;
      fetch_v = next_v;
    }
    multiply<BF16, false>({room.queries, D, k, int64_t(page_tokens) * STEP, nullptr, fetch_k,
                           room.scores, page_tokens, nullptr, D / STEP},
                          rows, columns);
    for (int row = 0; row < rows; row++) {
      const int position = item.position + row / call.group - key;
      const int first = call.window ? larger(0, position - call.window + 1) : 0;
      const int last = smaller(valid, position + 1);
      softmax_row<BF16, INT8>(call, room, row, columns, first, last);
      if (fetch_v && (row + 1) * FETCH_BYTES <= page_bytes)
        fetch_ahead((const char*)fetch_v + row * FETCH_BYTES);
    }
    rescale<BF16>(room, rows);
    if constexpr (INT8) v = widen<BF16>(stored_v, next_v, int64_t(valid + valid % STEP) * D, room);
    else v = stored_v;
    multiply<BF16, true>({room.probabilities, page_tokens, v, int64_t(D) * STEP,
                          last_row<BF16>(room, v, valid, D), fetch_v, room.out, D, room.alpha,
                          valid / STEP},
                         rows, D);
  }
  finish<BF16>(call, item, head, room);
}

template <bool BF16>
void reduce(const AttendCall& call, const Reduction& item, int32_t head) {
  const int rows = item.queries * call.group, D = call.head_size;
  const int64_t slot_rows = int64_t(call.kv_heads) * call.partial_rows;
  for (int row = 0; row < rows; row++) {
    const int64_t head_slot = int64_t(item.first_slot) * call.kv_heads + head;
    const int64_t first = head_slot * call.partial_rows + row;
    float maximum = MINUS_INFINITY, weight = 0.f;
    for (int s = 0; s < item.slots; s++) {
      const float other = call.partial_stats[(first + s * slot_rows) * 2];
      if (other > maximum) maximum = other;
    }
    for (int s = 0; s < item.slots; s++) {
      const float* stats = call.partial_stats + (first + s * slot_rows) * 2;
      weight += exp2f(stats[0] - maximum) * stats[1];
    }
    const int64_t token = item.query_row + row / call.group;
    const int64_t query_head = int64_t(head) * call.group + row % call.group;
    auto* out = (typename Cache<BF16>::Number*)call.out + token * call.out_stride + query_head * D;
    for (int d = 0; d < D; d += VL) {
      vf total = splat(0.f);
      for (int s = 0; s < item.slots; s++) {
        const int64_t at = first + s * slot_rows;
        const float factor = exp2f(call.partial_stats[at * 2] - maximum) / weight;
        total = fma(splat(factor), load(call.partial + at * D + d), total);
      }
      Cache<BF16>::put(out + d, total);
    }
  }
}

}  // namespace

void attend_tile(const AttendCall& call, const WorkItem& item, int32_t head, int32_t next_head,
                 char* scratch) {
  auto with = call.k_scale ? call.bf16 ? tile<true, true> : tile<false, true>
                           : call.bf16 ? tile<true, false> : tile<false, false>;
  with(call, item, head, next_head, scratch);
}

void attend_reduce(const AttendCall& call, const Reduction& item, int32_t head) {
  if (call.bf16) reduce<true>(call, item, head);
  else reduce<false>(call, item, head);
}

}  // namespace HFX_ISA
