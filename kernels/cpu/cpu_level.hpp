// The instruction sets there are kernels for, least first.
#pragma once

namespace hfx {

enum Level : int { none = -1, avx2 = 0, avx512 = 1, avx512bf16 = 2, amx = 3 };

// The best one that this processor and its operating system support and the compiler knew. For AMX
// the process has to ask the kernel, which this does.
Level cpu_level();

}  // namespace hfx
