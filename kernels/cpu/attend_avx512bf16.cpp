#define HFX_ISA hfx_avx512bf16
#include "attend_impl.hpp"
