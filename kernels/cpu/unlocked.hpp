// The interpreter lock, let go of during a call that is long enough to be worth it.
#pragma once
#include <Python.h>
#include <unistd.h>

namespace hfx {

class Unlocked {
 public:
  explicit Unlocked(bool worth_it) : state_(worth_it ? PyEval_SaveThread() : nullptr) {}
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

  // An interpreter that ends never gives the lock back to a daemon thread. Until Python 3.13 it ends
  // the thread instead, by unwinding its stack, and a destructor that is left so aborts the process:
  // the thread stops here, as it does from Python 3.14 on, until the process has ended.
  ~Unlocked() {
    if (!state_) return;
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace hfx
