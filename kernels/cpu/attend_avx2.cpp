#define HFX_ISA hfx_avx2
#include "attend_impl.hpp"
