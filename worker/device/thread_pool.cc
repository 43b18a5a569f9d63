#include "worker/device/thread_pool.h"

#include <chrono>

#include "core/base/pause.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"

namespace octavo {
namespace {

constexpr std::chrono::microseconds kSpin(30);

// Returns the first value of `word` that differs from `old`: spins, then sleeps in the kernel.
uint32_t AwaitChange(const std::atomic<uint32_t>& word, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  for (int i = 1;; ++i) {
    const uint32_t value = word.load(std::memory_order_acquire);
    if (value != old) return value;
    Pause();
    if (i % 64 == 0 && std::chrono::steady_clock::now() >= deadline) break;
  }
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  OCTAVO_CHECK(threads >= 1);
  for (int thread = 1; thread < threads; ++thread) {
    threads_.emplace_back([this, thread] { WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Work(int thread) {
  while (true) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= count_) return;
    const int64_t end = begin + grain_ < count_ ? begin + grain_ : count_;
    function_(context_, begin, end, thread);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  const FpEnv env;
  uint32_t seen = 0;
  while (true) {
    seen = AwaitChange(epoch_, seen);
    if (stopping_) return;
    Work(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::Run(int64_t count, int64_t grain, Function function, void* context) {
  if (count <= 0) return;
  OCTAVO_CHECK(grain >= 1);
  const FpEnv env;
  if (threads_.empty() || count <= grain) {
    function(context, 0, count, 0);
    return;
  }
  function_ = function;
  context_ = context;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  Work(0);
  uint32_t left = running_.load(std::memory_order_acquire);
  while (left != 0) left = AwaitChange(running_, left);
}

}  // namespace octavo
