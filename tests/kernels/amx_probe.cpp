// Products by emulated tiles against plain sums; prints what differs and ends with its count.
#define HFX_ISA hfx_probe
#define HFX_EMULATE_TILES
#include "product.hpp"

#include <cmath>
#include <cstdio>
#include <vector>

using namespace hfx_probe;

namespace {

uint32_t state = 1;
uint16_t some() {  // between -1 and 1
  state = state * 1664525u + 1013904223u;
  return bf16_of(float(int32_t(state)) / 2147483648.f);
}

template <bool ADD>
int check(int rows, int columns, int steps, bool has_tail) {
  const int64_t a_stride = 2 * steps + 6, b_stride = 2 * columns + 64, c_stride = columns + 3;
  std::vector<uint16_t> a(rows * a_stride), b((steps + 1) * b_stride), tail(2 * columns);
  std::vector<float> c(rows * c_stride), alpha(rows);
  for (auto* numbers : {&a, &b, &tail})
    for (auto& x : *numbers) x = some();
  for (auto* numbers : {&c, &alpha})
    for (auto& x : *numbers) x = float_of(some());
  const std::vector<float> before = c;
  multiply<true, ADD>(Product<true>{a.data(), a_stride, b.data(), b_stride,
                                    has_tail ? tail.data() : nullptr,
                                    nullptr, c.data(), c_stride, ADD ? alpha.data() : nullptr, steps},
                      rows, columns);
  int wrong = 0;
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < columns; column++) {
      double sum = ADD ? double(before[row * c_stride + column]) * alpha[row] : 0.0;
      for (int k = 0; k < steps + has_tail; k++)
        for (int i = 0; i < 2; i++) {
          const uint16_t* right = k < steps ? &b[k * b_stride] : tail.data();
          sum += double(float_of(a[row * a_stride + 2 * k + i])) * float_of(right[2 * column + i]);
        }
      if (std::fabs(sum - c[row * c_stride + column]) > 1e-4) wrong++;
    }
  if (wrong)
    std::printf("%d x %d, %d steps, tail %d: %d differ\n", rows, columns, steps, has_tail, wrong);
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int rows : {1, 31, 32, 33, 64, 96})
    for (int columns : {16, 32, 48, 64, 80, 128})
      for (int steps : {0, 1, 15, 16, 17, 32, 40, 64})
        for (bool tail : {false, true})
          wrong += check<false>(rows, columns, steps, tail) + check<true>(rows, columns, steps, tail);
  bool used = false;
  for (const auto& row : emulated[3].bytes)
    for (char byte : row) used |= byte != 0;
  if (!used) std::printf("no product went through tiles\n");
  return wrong || !used;
}
