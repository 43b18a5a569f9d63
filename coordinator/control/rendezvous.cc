#include "coordinator/control/rendezvous.h"

#include <utility>

#include "core/base/error.h"

namespace octavo {

Rendezvous::Answer Rendezvous::AnswerOf(const Waiter& waiter) const {
  Answer answer{waiter.worker, {}};
  answer.value.set_group_epoch(waiter.get.group_epoch());
  answer.value.set_key(waiter.get.key());
  answer.value.set_call(waiter.get.call());
  answer.value.set_value(values_.at(waiter.get.key()));
  return answer;
}

absl::Status Rendezvous::Put(const v1::RendezvousPut& put, std::vector<Answer>* answers) {
  const auto found = values_.find(put.key());
  const size_t before = found == values_.end() ? 0 : found->second.size() + put.key().size();
  const size_t after = bytes_ - before + put.key().size() + put.value().size();
  if (after > kBytesMax || (found == values_.end() && values_.size() >= kKeysMax)) {
    return MakeError(Reason::kBadRequest, "the ranks of a group left too many notes");
  }
  bytes_ = after;
  values_[put.key()] = put.value();
  std::vector<Waiter> still;
  for (Waiter& waiter : waiters_) {
    if (waiter.get.key() == put.key()) {
      answers->push_back(AnswerOf(waiter));
    } else {
      still.push_back(std::move(waiter));
    }
  }
  waiters_ = std::move(still);
  return absl::OkStatus();
}

absl::Status Rendezvous::Get(const std::string& worker, const v1::RendezvousGet& get,
                             std::vector<Answer>* answers) {
  Waiter waiter{worker, get};
  if (values_.contains(get.key())) {
    answers->push_back(AnswerOf(waiter));
    return absl::OkStatus();
  }
  if (waiters_.size() >= kWaitersMax) {
    return MakeError(Reason::kBadRequest, "the ranks of a group wait for too many notes");
  }
  waiters_.push_back(std::move(waiter));
  return absl::OkStatus();
}

}  // namespace octavo
