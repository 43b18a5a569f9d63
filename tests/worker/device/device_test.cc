// Thread pool: every index exactly once, in FpEnv, at any size; arena: budget and alignment.

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"

namespace octavo {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t count : {0, 1, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> hits(count);
        std::atomic<bool> sane = true;
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
          if (thread < 0 || thread >= threads || !FpEnv::Active()) sane = false;
          for (int64_t i = begin; i < end; ++i) ++hits[i];
        });
        EXPECT_TRUE(sane);
        for (const auto& hit : hits) EXPECT_EQ(hit, 1);
      }
    }
  }
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum = 0;
  for (int round = 0; round < 200; ++round) {
    if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.ParallelFor(16, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
  }
  EXPECT_EQ(sum, 200 * 120);
}

TEST(Arena, WhatItTouchesWaitsForNoPage) {
  constexpr uint64_t kBytes = (1u << 20) + 4096;  // pages of 4 KiB
  const auto faults = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  Arena arena(0);
  arena.set_touches(true);
  const auto buffer = arena.Allocate(kBytes, "scratch");
  ASSERT_TRUE(buffer.ok());
  const auto before = faults();
  for (uint64_t i = 0; i < kBytes; i += 4096) {
    EXPECT_EQ(std::exchange(buffer->data()[i], std::byte{1}), std::byte{0});
  }
  EXPECT_LT(faults() - before, static_cast<long>(kBytes / 4096 / 4));
}

TEST(Arena, HoldsItsBudget) {
  Arena arena(8u << 20);
  {
    auto first = arena.Allocate(3u << 20, "weights");
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first->data()) % (2u << 20), 0u);
    EXPECT_EQ(first->size(), 3u << 20);
    for (std::byte value : first->span<std::byte>()) ASSERT_EQ(value, std::byte{0});
    const auto second = arena.Allocate(5u << 20, "cache");
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(ReasonOf(second.status()), Reason::kOutOfMemory);
    EXPECT_NE(std::string(second.status().message()).find("cache"), std::string::npos);
    Buffer moved = *std::move(first);
    EXPECT_EQ(arena.used_bytes(), 4u << 20);
    moved.as<int>()[0] = 1;
  }
  EXPECT_EQ(arena.used_bytes(), 0u);
  EXPECT_TRUE(arena.Allocate(8u << 20, "all").ok());
}

}  // namespace
}  // namespace octavo
