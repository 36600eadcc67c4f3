// One attention tile, written once on the vectors of simd.hpp.
//
// Online softmax over the tile's pages: scores = Q K of a page, probabilities, out = out * alpha +
// P V. Unwritten slots may hold NaN: their scores are overwritten before anything reads them, and
// their V rows are never multiplied, because 0 * NaN is NaN.
#include "softmax.hpp"

extern "C" float exp2f(float);

namespace HFX_ISA {
namespace {

using hfx::Reduction;
using hfx::WorkItem;

constexpr float LOG2_E = 1.44269504f;

template <bool CONDITION, typename True, typename False>
struct Choice {  // std::conditional: no std template may be instantiated here
  using Type = True;
};
template <typename True, typename False>
struct Choice<false, True, False> {
  using Type = False;
};

// The last V row of a page with an odd number of keys, its second half zeroed. A quantised page needs
// none: any int8 is finite, and its probability is 0.
template <bool BF16, typename Stored>
HFX_INLINE const Stored* last_row(const Room<BF16>& room, const Stored* v, int valid,
                                  int head_size) {
  if constexpr (sizeof(Stored) != 2) return nullptr;
  if (valid % 2 == 0) return nullptr;
  const Stored* row = v + int64_t(valid / 2) * head_size * 2;
  for (int d = 0; d < head_size; d++) {
    room.last_v[2 * d] = row[2 * d];
    room.last_v[2 * d + 1] = 0;
  }
  return (const Stored*)room.last_v;
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

// A product with a page of `count` numbers. A quantised one is widened on the way for the rows of one
// block, ahead of it for more.
template <bool BF16, bool ADD, typename Stored>
HFX_INLINE void multiply_page(const Product<BF16, Stored>& p, int rows, int columns, int64_t count,
                              const Room<BF16>& room) {
  if constexpr (sizeof(Stored) == 1)
    if (rows > most_rows<BF16, Stored>()) {
      const auto* page = widen<BF16>(p.b, p.ahead, count, room);
      return multiply<BF16, ADD>(Product<BF16>{p.a, p.a_stride, page, p.b_stride, nullptr, nullptr,
                                               p.c, p.c_stride, p.alpha, p.steps},
                                 rows, columns);
    }
  multiply<BF16, ADD>(p, rows, columns);
}

HFX_INLINE void fetch_bytes(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) _mm_prefetch((const char*)from + at, _MM_HINT_T1);
}

// Fetched of the next V while a row's probabilities are computed: memory is idle then, and a burst of
// more fetches than it takes in that time stops the core.
constexpr int64_t BYTES_PER_ROW = 1024;

template <bool BF16, bool INT8>
void tile(const AttendCall& call, const WorkItem& item, int32_t head, int32_t next_head,
          char* scratch) {
  using Number = typename Cache<BF16>::Number;
  using Stored = typename Choice<INT8, int8_t, Number>::Type;
  constexpr int STEP = Cache<BF16>::STEP;
  const int rows = item.queries * call.group, D = call.head_size, page_tokens = call.page_tokens;
  const Room<BF16> room(scratch, rows, D, page_tokens);
  const int64_t page_numbers = int64_t(page_tokens) * D;
  const int32_t* pages = call.table + item.sequence * call.table_stride;
  auto offset = [&](int key, int32_t of_head) {
    return (int64_t(pages[key / page_tokens]) * call.kv_heads + of_head) * page_numbers;
  };
  start<BF16>(call, item, head, room);
  for (int key = item.kv_begin; key < item.kv_end; key += page_tokens) {
    const int64_t here = offset(key, head);
    const Stored* k = (const Stored*)call.k + here;
    const Stored* v = (const Stored*)call.v + here;
    const int next = key + page_tokens;
    const bool more = next < item.kv_end;
    const int64_t ahead = more ? offset(next, head) : offset(item.kv_begin, next_head);
    const bool fetch = more || next_head != head;
    const Stored* next_k = fetch ? (const Stored*)call.k + ahead : nullptr;
    const Stored* next_v = fetch ? (const Stored*)call.v + ahead : nullptr;
    const int valid = smaller(page_tokens, item.kv_end - key);
    const int columns = (valid + VL - 1) / VL * VL;
    if constexpr (INT8) {
      take_scales<BF16>(call, here / D, valid, columns, room);
      if (fetch && call.scale_per_token) {
        fetch_bytes(call.k_scale + ahead / D, page_tokens * sizeof(float));
        fetch_bytes(call.v_scale + ahead / D, page_tokens * sizeof(float));
      }
    }
    multiply_page<BF16, false>(
        Product<BF16, Stored>{room.queries, D, k, int64_t(page_tokens) * STEP, nullptr, next_k,
                              room.scores, page_tokens, nullptr, D / STEP},
        rows, columns, page_numbers, room);
    softmax_page<BF16, INT8>(call, room, rows, item.position - key, valid, columns, [&](int row) {
      if (fetch && (row + 1) * BYTES_PER_ROW <= page_numbers * int64_t(sizeof(Stored)))
        fetch_bytes((const char*)next_v + row * BYTES_PER_ROW, BYTES_PER_ROW);
    });
    rescale<BF16>(room, rows);
    const int steps = INT8 ? (valid + STEP - 1) / STEP : valid / STEP;
    multiply_page<BF16, true>(
        Product<BF16, Stored>{room.probabilities, page_tokens, v, int64_t(D) * STEP,
                              last_row<BF16>(room, v, valid, D), next_v, room.out, D, room.alpha,
                              steps},
        rows, D, int64_t(steps) * STEP * D, room);
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
