#include "worker/serve/follower.h"

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {

absl::Status Follower::Check(const v1::Step& step) const {
  if (!failure_.ok()) return failure_;
  if (step.group_epoch() != group_epoch_) {
    return MakeError(Reason::kFenced, fmt::format("step of group epoch {}, this rank is in {}",
                                                  step.group_epoch(), group_epoch_));
  }
  if (step.index() != next_index_) {
    return MakeError(Reason::kStateMismatch,
                     fmt::format("step {} came where {} was expected", step.index(), next_index_));
  }
  return absl::OkStatus();
}

v1::StepDone Follower::Execute(const v1::Step& step) {
  v1::StepDone done;
  done.set_index(step.index());
  failure_ = Check(step);
  if (failure_.ok()) {
    ++next_index_;
    failure_ = run_(step);
  }
  if (failure_.ok()) {
    *done.mutable_state() = state_.Advance(step);
  } else {
    done.mutable_failure()->set_reason(std::string(InfoOf(ReasonOf(failure_)).name));
    done.mutable_failure()->set_message(std::string(failure_.message()));
  }
  return done;
}

}  // namespace octavo
