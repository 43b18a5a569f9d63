#pragma once

// An engine whose ranks are stand-ins: real followers, and a model of one rule.

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "worker/serve/engine.h"
#include "worker/serve/follower.h"

namespace octavo {

inline constexpr int64_t kVocab = 16;
inline constexpr int64_t kLayers = 3;
inline constexpr int64_t kHidden = 2;

// The limits of a FakeGroup.
inline SchedulerLimits FakeLimits(uint32_t max_sequences = 8) {
  return {.block_count = 64,
          .max_model_len = 2048,
          .queue_max = 2,
          .max_batched_tokens = 256,
          .max_sequences = max_sequences};
}

// A model of one rule: after token t comes t + 1 (mod 16), with certainty that falls with t.
class FakeGroup {
 public:
  explicit FakeGroup(int followers = 0, SchedulerLimits limits = FakeLimits(), int threads = 1)
      : threads_(threads) {
    for (int i = 0; i < followers; ++i) {
      followers_.push_back(
          std::make_unique<Follower>(9, [](const v1::Step&) { return absl::OkStatus(); }));
    }
    engine = std::make_unique<Engine>(
        Engine::Options{.group_epoch = 9,
                        .vocab_size = kVocab,
                        .layer_count = kLayers,
                        .hidden_size = kHidden,
                        .threads = threads,
                        .limits = limits},
        Engine::Hooks{.send = [this](const v1::Step& step) { return Send(step); },
                      .run = [this](const v1::Step& step) { return Run(step); },
                      .spread = [this](int64_t count, const auto& body) { Spread(count, body); },
                      .residuals = [this] { return std::span<const uint16_t>(residuals_); },
                      .collect = [this](uint64_t) { return done_; },
                      .broken = [this](const absl::Status&) { ++broken; }},
        Clock::System());
  }
  ~FakeGroup() { engine.reset(); }

  // Runs a call to its end.
  static v1::EngineEvent Drain(EngineCall& call) {
    v1::EngineEvent all;
    for (int i = 0; i < 1000; ++i) {
      v1::EngineEvent event;
      const EngineCall::News news = call.Wait(std::chrono::milliseconds(20), &event);
      if (news == EngineCall::News::kNothing) continue;
      if (news == EngineCall::News::kFailed) return all;
      all.MergeFrom(event);
      if (news == EngineCall::News::kFinished) return all;
    }
    ADD_FAILURE() << "the call did not end";
    return all;
  }

  std::atomic<int> broken = 0;
  std::atomic<int> steps = 0;
  std::atomic<int> spreads = 0;
  std::atomic<int> delay_ms = 0;
  std::atomic<bool> spoil_digest = false;
  absl::Status run_failure;
  std::unique_ptr<Engine> engine;

 private:
  absl::Status Send(const v1::Step& step) {
    done_.clear();
    for (auto& follower : followers_) done_.push_back(follower->Execute(step));
    if (spoil_digest) done_.back().mutable_state()->set_low(done_.back().state().low() ^ 1);
    return absl::OkStatus();
  }

  absl::StatusOr<std::span<const float>> Run(const v1::Step& step) {
    ++steps;
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    if (!run_failure.ok()) return run_failure;
    logits_.clear();
    residuals_.clear();
    for (const v1::StepChunk& chunk : step.chunks()) {
      for (int i = 0; i < chunk.tokens_size(); ++i) {
        const bool last = i + 1 == chunk.tokens_size();
        // Every value says its position.
        if (chunk.residuals()) {
          residuals_.insert(residuals_.end(), kLayers * kHidden,
                            static_cast<uint16_t>(chunk.start() + static_cast<uint32_t>(i)));
        }
        if (!chunk.logits_all() && !(chunk.logits_last() && last)) continue;
        std::vector<float> row(kVocab, 0.0f);
        row[static_cast<size_t>((chunk.tokens(i) + 1) % kVocab)] =
            10.0f - static_cast<float>(chunk.tokens(i)) / 4;
        logits_.insert(logits_.end(), row.begin(), row.end());
      }
    }
    return logits_;
  }

  // Every thread takes its turn.
  void Spread(int64_t count, const std::function<void(int64_t, int)>& body) {
    ++spreads;
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < threads_; ++thread) {
      threads.emplace_back([&, thread] {
        for (int64_t i = thread; i < count; i += threads_) body(i, thread);
      });
    }
  }

  const int threads_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::vector<v1::StepDone> done_;
  std::vector<float> logits_;
  std::vector<uint16_t> residuals_;
};

inline v1::EngineRequest Request(std::vector<int32_t> prompt, uint32_t max_tokens) {
  v1::EngineRequest request;
  request.mutable_prompt()->Add(prompt.begin(), prompt.end());
  request.set_max_tokens(max_tokens);
  return request;
}

inline std::vector<int32_t> Ids(const v1::EngineEvent& event) {
  std::vector<int32_t> ids;
  for (const v1::EngineToken& token : event.tokens()) ids.push_back(token.id());
  return ids;
}

// Waits until the call holds rows.
inline void AwaitRows(EngineCall& call) {
  for (int i = 0; i < 1000 && !call.HasRows(); ++i) {
    v1::EngineEvent event;
    (void)call.Wait(std::chrono::milliseconds(20), &event);
  }
  ASSERT_TRUE(call.HasRows());
}

inline v1::EngineScoreRequest Squares(int count) {
  v1::EngineScoreRequest request;
  for (int i = 0; i < count; ++i) request.add_ids((i * i) % 16);
  return request;
}

}  // namespace octavo
