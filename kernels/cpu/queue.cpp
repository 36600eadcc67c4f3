#include "queue.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "cpu_level.hpp"

namespace hfx {
namespace {

// Some 10 us of one core: below it, waking other threads costs more than it saves.
constexpr int64_t PARALLEL_COST = 400 * 1000;
constexpr int64_t ROWS_PER_KEY_READ = 5;  // a key's read takes as long as 5 rows' products

constexpr int64_t ITEMS_PER_THREAD = 4;   // so many are shared out evenly, heads together

// A thread's working memory; it grows to the largest tile seen and stays.
class Scratch {
 public:
  ~Scratch() { std::free(bytes_); }
  char* at_least(int64_t size) {
    if (size > size_) {
      std::free(bytes_);
      size_ = (size + 4095) / 4096 * 4096;
      bytes_ = static_cast<char*>(std::aligned_alloc(4096, size_));
      if (!bytes_) throw std::bad_alloc();
    }
    return bytes_;
  }

 private:
  char* bytes_ = nullptr;
  int64_t size_ = 0;
};

thread_local Scratch scratch;

struct Kernels {
  AttendTile tile;
  AttendReduce reduce;
};

Kernels choose(int level) {
#if defined(HFX_AMX)
  if (level >= amx) return {&hfx_amx::attend_tile, &hfx_amx::attend_reduce};
#endif
  if (level >= avx512bf16) return {&hfx_avx512bf16::attend_tile, &hfx_avx512bf16::attend_reduce};
  if (level == avx512) return {&hfx_avx512::attend_tile, &hfx_avx512::attend_reduce};
  return {&hfx_avx2::attend_tile, &hfx_avx2::attend_reduce};
}

}  // namespace

int64_t attend_cost(const AttendWork& work, int64_t kv_heads, int64_t group, int64_t head_size) {
  int64_t cost = 0;
  for (int64_t i = 0; i < work.item_count; i++) {
    const WorkItem& item = work.items[i];
    cost += (item.kv_end - item.kv_begin) * (item.queries * group + ROWS_PER_KEY_READ);
  }
  return cost * kv_heads * head_size;
}

void attend(const AttendCall& call, const AttendWork& work, int level) {
  const Kernels kernels = choose(level);
  const int32_t heads = call.kv_heads;
  const int64_t bytes = attend_scratch_bytes(work.tile_rows, call.head_size, call.page_tokens);
  // with items to spare a thread takes all heads of one: their pages lie side by side
  const int32_t together = work.item_count >= ITEMS_PER_THREAD * work.threads ? heads : 1;
  const int64_t claims = work.item_count * (heads / together);
  auto tile = [&](int64_t i) {
    const int64_t first = i * together;
    for (int64_t w = first; w < first + together; w++) {
      const int32_t head = int32_t(w % heads), next = w + 1 < first + together ? head + 1 : head;
      kernels.tile(call, work.items[w / heads], head, next, scratch.at_least(bytes));
    }
  };
  auto reduce = [&](int64_t i) {
    kernels.reduce(call, work.reductions[i / heads], int32_t(i % heads));
  };
  const int64_t cost = attend_cost(work, heads, call.group, call.head_size);
  const int threads = cost < PARALLEL_COST ? 1 : work.threads;
  share(threads, claims, tile);
  share(threads, work.reduction_count * heads, reduce);
}

}  // namespace hfx
