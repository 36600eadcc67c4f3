#define HFX_ISA hfx_avx512
#include "attend_impl.hpp"
