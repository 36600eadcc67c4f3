#include "probe.hpp"

#include <immintrin.h>

#include <algorithm>
#include <atomic>

#include "team.hpp"

namespace hfx {
namespace {

constexpr int64_t PART_BYTES = 1 << 20;  // a thread's share at a time: long runs, still balanced

__attribute__((target("avx2"))) uint64_t read_part(const char* from, int64_t bytes) {
  __m256i sums[4] = {};
  for (int64_t i = 0; i < bytes; i += 256)
    for (int j = 0; j < 8; j++)
      sums[j % 4] = _mm256_add_epi64(
          sums[j % 4], _mm256_loadu_si256((const __m256i*)(from + i + 32 * j)));
  const __m256i sum = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]),
                                       _mm256_add_epi64(sums[2], sums[3]));
  uint64_t lanes[4];
  _mm256_storeu_si256((__m256i*)lanes, sum);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

}  // namespace

uint64_t read_all(const void* from, int64_t bytes, int threads) {
  std::atomic<uint64_t> total{0};
  share(threads, (bytes + PART_BYTES - 1) / PART_BYTES, [&](int64_t i) {
    const int64_t begin = i * PART_BYTES;
    total += read_part((const char*)from + begin, std::min(PART_BYTES, bytes - begin));
  });
  return total;
}

}  // namespace hfx
