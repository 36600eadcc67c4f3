#define HFX_ISA hfx_avx512bf16
#include "cache_impl.hpp"
