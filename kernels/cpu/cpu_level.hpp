// The instruction sets there are kernels for, least first.
#pragma once

namespace hfx {

enum Level : int { none = -1, avx2 = 0, avx512 = 1, avx512bf16 = 2 };

// The best one that this processor and its operating system support.
Level cpu_level();

}  // namespace hfx
