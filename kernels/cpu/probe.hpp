// The plainest thing that can be done with memory, to compare kernels with.
#pragma once
#include <cstdint>

namespace hfx {

// Reads so many bytes once, all threads together; returns their sum as 64-bit words, so that no
// compiler leaves a load out. Needs AVX2; `bytes` is a multiple of 256.
uint64_t read_all(const void* from, int64_t bytes, int threads);

}  // namespace hfx
