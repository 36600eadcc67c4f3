#define HFX_ISA hfx_avx512
#include "cache_impl.hpp"
