#define HFX_ISA hfx_avx2
#include "cache_impl.hpp"
