#include "worker/serve/rendezvous_client.h"

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Epochs rise: one that is long over is asked for by nobody.
constexpr size_t kAbortedMax = 256;

}  // namespace

Rendezvous RendezvousClient::ForGroup(uint64_t group_epoch) {
  return {.put =
              [this, group_epoch](const std::string& key, const std::string& value) {
                v1::Report report;
                report.mutable_put()->set_group_epoch(group_epoch);
                report.mutable_put()->set_key(key);
                report.mutable_put()->set_value(value);
                send_(std::move(report));
                return absl::OkStatus();
              },
          .get = [this, group_epoch](
                     const std::string& key,
                     std::chrono::milliseconds timeout) { return Get(group_epoch, key, timeout); }};
}

absl::StatusOr<std::string> RendezvousClient::Get(uint64_t group_epoch, const std::string& key,
                                                  std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  v1::Report report;
  uint64_t call = 0;
  {
    MutexLock lock(mutex_);
    call = next_call_++;
    calls_[call] = {.group_epoch = group_epoch, .aborted = aborted_.contains(group_epoch)};
  }
  report.mutable_get()->set_group_epoch(group_epoch);
  report.mutable_get()->set_key(key);
  report.mutable_get()->set_call(call);
  send_(std::move(report));
  MutexLock lock(mutex_);
  while (!calls_[call].value.has_value() && !calls_[call].aborted) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= until) break;
    changed_.WaitFor(mutex_, until - now);
  }
  const Call ended = std::move(calls_[call]);
  calls_.erase(call);
  if (ended.aborted) {
    return MakeError(Reason::kGroupLost, "the group was aborted while it formed");
  }
  if (ended.value.has_value()) return *ended.value;
  return MakeError(Reason::kGroupLost, fmt::format("no rank has put '{}' in time", key));
}

void RendezvousClient::Deliver(const v1::RendezvousValue& value) {
  MutexLock lock(mutex_);
  const auto it = calls_.find(value.call());
  if (it == calls_.end()) return;
  it->second.value = value.value();
  changed_.NotifyAll();
}

void RendezvousClient::Abort(uint64_t group_epoch) {
  MutexLock lock(mutex_);
  aborted_.insert(group_epoch);
  if (aborted_.size() > kAbortedMax) aborted_.erase(aborted_.begin());
  for (auto& [id, call] : calls_) {
    if (call.group_epoch == group_epoch) call.aborted = true;
  }
  changed_.NotifyAll();
}

void RendezvousClient::Reset() {
  MutexLock lock(mutex_);
  aborted_.clear();
}

}  // namespace octavo
