// What one attention launch is, for every instruction set: pointers and strides only.
//
// Cache layouts, one page of one key-value head (PAGE slots, D numbers a head):
//   bf16, "pair": K [D / 2][PAGE][2]   V [PAGE / 2][D][2]   (the pairs that vdpbf16ps multiplies)
//   fp32:         K [D][PAGE]          V [PAGE][D]
// A quantised cache holds int8 in the layout of the type that it's computed in, and a scale for each
// token [page][head][PAGE], or one for all. Pages are [page][head].
// A tile's rows are its tokens times the query heads of one group.
#pragma once
#include <cstdint>

namespace hfx {

struct WorkItem {  // a row of WorkList.items
  int32_t sequence, query_row, queries, position, kv_begin, kv_end, slot, flags;
};

constexpr int32_t FIRST = 2;  // the flag of the part that sinks belong to

struct Reduction {  // a row of WorkList.reductions
  int32_t query_row, queries, first_slot, slots;
};

struct AttendCall {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int64_t q_stride, out_stride;  // numbers from one token to the next
  const int32_t* table;
  int64_t table_stride;
  float* partial;        // [slot][head][partial_rows][D] unnormalised sums of split tiles
  float* partial_stats;  // [slot][head][partial_rows][2] their maxima (log2) and weights
  int64_t partial_rows;
  const float* k_scale;  // of a quantised cache, else null
  const float* v_scale;
  bool scale_per_token;  // else one for all
  const float* sinks;    // a score per query head, or null
  float scale;      // of scores: to powers of 2 without a cap, to what tanh takes with one
  float cap_log2;   // the soft-cap times log2(e), 0 for none
  int32_t kv_heads, group, head_size, page_tokens, window;
  bool bf16;
};

// `next_head` is the head whose tile of the same item the thread computes next, `head` if none: its
// first page is fetched meanwhile.
using AttendTile = void (*)(const AttendCall&, const WorkItem&, int32_t head, int32_t next_head,
                            char* scratch);
using AttendReduce = void (*)(const AttendCall&, const Reduction&, int32_t head);

// What attend_tile needs for a tile of so many rows: scores and probabilities of a page, output,
// queries, four numbers a row, a last V row, and a widened page with its scales, each padded to
// cache lines.
constexpr int64_t attend_scratch_bytes(int64_t rows, int64_t head_size, int64_t page_tokens) {
  return rows * (8 * page_tokens + 8 * head_size + 16) + 4 * head_size +
         page_tokens * (4 * head_size + 8) + 12 * 64;
}

}  // namespace hfx

#define HFX_DECLARE(ISA)                                                                \
  namespace ISA {                                                                       \
  void attend_tile(const hfx::AttendCall&, const hfx::WorkItem&, int32_t head,          \
                   int32_t next_head, char* scratch);                                   \
  void attend_reduce(const hfx::AttendCall&, const hfx::Reduction&, int32_t head);      \
  }
HFX_DECLARE(hfx_avx2)
HFX_DECLARE(hfx_avx512)
HFX_DECLARE(hfx_avx512bf16)
HFX_DECLARE(hfx_amx)
#undef HFX_DECLARE
