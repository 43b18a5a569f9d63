#pragma once

// The side of a step that every rank but the leader plays: execute, never decide.

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "octavo/v1/engine.pb.h"
#include "worker/serve/step_state.h"

namespace octavo {

class Follower {
 public:
  // `run` computes a step on this rank. Used by one thread.
  Follower(uint64_t group_epoch, std::function<absl::Status(const v1::Step&)> run)
      : group_epoch_(group_epoch), run_(std::move(run)) {}

  // Runs `step` and answers with the state digest, or with the failure: kFenced (another epoch),
  // kStateMismatch (a step is missing or repeated), or what `run` returned. After a failure every
  // further step fails the same way.
  v1::StepDone Execute(const v1::Step& step);

 private:
  absl::Status Check(const v1::Step& step) const;

  const uint64_t group_epoch_;
  const std::function<absl::Status(const v1::Step&)> run_;
  uint64_t next_index_ = 0;
  StepState state_;
  absl::Status failure_;
};

}  // namespace octavo
