// Python's door to the packed linear layer: packing, the choice of instruction set, the tasks.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_level.hpp"
#include "linear.hpp"
#include "queue.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using hfx::Epilogue;
using hfx::LinearCall;
using hfx::PANEL;

namespace {

constexpr int64_t ROWS_PER_TASK = 96;    // their x, at 1536 inputs 295 kB of bf16, stays in L2
constexpr int64_t TASKS_PER_THREAD = 8;  // enough that a thread that lost its core costs little

hfx::LinearRange choose(int level) {
  if (level >= hfx::avx512bf16) return &hfx_avx512bf16::linear_range;
  if (level == hfx::avx512) return &hfx_avx512::linear_range;
  return &hfx_avx2::linear_range;
}

// The output that column `column` of panel `panel` holds, or -1 for padding.
int64_t output_of(int64_t panel, int64_t column, int64_t N, Epilogue epilogue) {
  if (epilogue == Epilogue::silu_mul) {
    const int64_t gate = panel * (PANEL / 2) + column % (PANEL / 2);
    return column < PANEL / 2 ? gate : N / 2 + gate;
  }
  const int64_t output = panel * PANEL + column;
  return output < N ? output : -1;
}

template <typename Number, int STEP>
void pack_panel(const Number* weight, int64_t stride, Number* panels, int64_t panel, int64_t N,
                int64_t K, Epilogue epilogue) {
  Number* out = panels + panel * PANEL * K;
  for (int64_t column = 0; column < PANEL; column++) {
    const int64_t output = output_of(panel, column, N, epilogue);
    for (int64_t k = 0; k < K; k += STEP)
      for (int64_t i = 0; i < STEP; i++)
        out[(k * PANEL) + column * STEP + i] = output < 0 ? 0 : weight[output * stride + k + i];
  }
}

void pack_linear(uintptr_t weight, int64_t stride, uintptr_t panels, int64_t N, int64_t K,
                 bool bf16, int epilogue, int threads) {
  const hfx::Unlocked unlocked(true);
  const int64_t count = (N + PANEL - 1) / PANEL;
  const auto kind = Epilogue(epilogue);
  hfx::share(threads, count, [&](int64_t panel) {
    if (bf16) pack_panel<uint16_t, 2>((const uint16_t*)weight, stride, (uint16_t*)panels, panel, N, K, kind);
    else pack_panel<float, 1>((const float*)weight, stride, (float*)panels, panel, N, K, kind);
  });
}

void run(const LinearCall& call, hfx::LinearRange range) {
  const int64_t panels = (call.N + PANEL - 1) / PANEL;
  const int64_t row_tasks = (call.M + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
  const int64_t rows = (call.M + row_tasks - 1) / row_tasks;
  const int64_t wanted = std::max<int64_t>(1, call.threads * TASKS_PER_THREAD / row_tasks);
  const int64_t group = std::max<int64_t>(1, panels / wanted);
  const int64_t panel_tasks = (panels + group - 1) / group;
  hfx::share(call.threads, row_tasks * panel_tasks, [&](int64_t i) {
    const int64_t row = i / panel_tasks * rows, panel = i % panel_tasks * group;
    range(call, row, std::min(call.M, row + rows), panel, std::min(panels, panel + group));
  });
}

// x as fp32, valid until this thread's next call.
const float* widened(const uint16_t* x, int64_t stride, int64_t rows, int64_t inputs,
                     int threads) {
  thread_local std::vector<float> wide;
  wide.resize(std::max<size_t>(wide.size(), rows * inputs));
  float* to = wide.data();
  hfx::for_rows(rows, inputs, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      for (int64_t i = 0; i < inputs; i++) {
        const uint32_t word = uint32_t(x[row * stride + i]) << 16;
        std::memcpy(to + row * inputs + i, &word, 4);
      }
    }
  });
  return to;
}

void linear(uintptr_t x, int64_t x_stride, int64_t M, uintptr_t panels, int64_t N, int64_t K,
            uintptr_t bias, uintptr_t y, int64_t y_stride, bool bf16, bool y_fp32, int epilogue,
            int level, int threads) {
  const hfx::Unlocked unlocked(true);
  LinearCall call{(const void*)x, (const void*)panels, (const float*)bias, (void*)y, x_stride,
                  y_stride, M, K, N, bf16, y_fp32, Epilogue(epilogue), threads};
  if (bf16 && level == hfx::avx2) {
    call.x = widened((const uint16_t*)x, x_stride, M, K, threads);
    call.x_stride = K;
  }
  run(call, choose(level));
}

}  // namespace

void bind_linear(nb::module_& m) {
  m.attr("PANEL") = PANEL;
  m.def("pack_linear", &pack_linear, nb::arg("weight"), nb::arg("stride"), nb::arg("panels"),
        nb::arg("outputs"), nb::arg("inputs"), nb::arg("bf16"), nb::arg("epilogue"),
        nb::arg("threads"));
  m.def("linear", &linear, nb::arg("x"), nb::arg("x_stride"), nb::arg("rows"), nb::arg("panels"),
        nb::arg("outputs"), nb::arg("inputs"), nb::arg("bias"), nb::arg("y"), nb::arg("y_stride"),
        nb::arg("bf16"), nb::arg("y_fp32"), nb::arg("epilogue"), nb::arg("level"),
        nb::arg("threads"));
}
