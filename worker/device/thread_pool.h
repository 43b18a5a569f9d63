#pragma once

// Persistent threads for the inside of one model step. The caller is thread 0; the others spin for
// about 30 microseconds between jobs and then sleep. Every thread computes in FpEnv.
//
// Work is dealt out in chunks by an atomic counter, so a preempted thread delays only its chunk.
// Which thread runs a chunk must not matter to the result: every element is computed whole by one
// chunk (docs/numerics.md).

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace octavo {

class ThreadPool {
 public:
  // `threads` >= 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(begin, end, thread) for chunks of at most `grain` indices that tile [0, count), and
  // returns when all are done. A single chunk, or a pool of one, runs in the caller. Not reentrant:
  // one caller at a time.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    Run(
        count, grain,
        [](void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<Plain*>(context))(begin, end, thread);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Function = void (*)(void* context, int64_t begin, int64_t end, int thread);

  void Run(int64_t count, int64_t grain, Function function, void* context);
  void Work(int thread);
  void WorkerLoop(int thread);

  // The job being run. Written by the caller before it raises `epoch_`.
  Function function_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> running_{0};  // workers that have not finished this epoch
  bool stopping_ = false;                         // guarded by the epoch, as the job is
  std::vector<std::thread> threads_;
};

}  // namespace octavo
