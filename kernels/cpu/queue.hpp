// Who computes what: the tile queue of attention, and row ranges of the small operators.
#pragma once
#include <cstdint>

#include "attend.hpp"
#include "team.hpp"

namespace hfx {

struct AttendWork {  // one step's tiles; everything but the caches and the queries
  const WorkItem* items;
  int64_t item_count;
  const Reduction* reductions;
  int64_t reduction_count;
  int64_t tile_rows;  // most rows of a tile
  int threads;
};

void attend(const AttendCall& call, const AttendWork& work, int level);

// Multiply-adds of the whole step, a key's read from memory counted as a few of them.
int64_t attend_cost(const AttendWork& work, int64_t kv_heads, int64_t group, int64_t head_size);

// Below this many numbers (some 10 us of one core) waking other threads costs more than it saves.
constexpr int64_t PARALLEL_NUMBERS = 64 * 1024;

constexpr int64_t ROW_RANGES_PER_THREAD = 4;

// Calls range(begin, end) so that every row is covered once.
template <typename Range>
void for_rows(int64_t rows, int64_t numbers_per_row, int threads, const Range& range) {
  if (threads <= 1 || rows < 2 || rows * numbers_per_row < PARALLEL_NUMBERS) return range(0, rows);
  const int64_t parts = threads * ROW_RANGES_PER_THREAD;
  share(threads, parts, [&](int64_t i) { range(rows * i / parts, rows * (i + 1) / parts); });
}

}  // namespace hfx
