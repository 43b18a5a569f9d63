#include "coordinator/gateway/live_calls.h"

#include <algorithm>
#include <chrono>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"

namespace octavo {
namespace {

constexpr std::chrono::milliseconds kWatchInterval{20};
// Clients looked at in one round: each look polls the client's connection.
constexpr size_t kLooksMax = 32;

}  // namespace

LiveCalls::LiveCalls(const ModelTable* models)
    : models_(models), thread_([this](const std::stop_token& stop) { Watch(stop); }) {}

LiveCalls::~LiveCalls() {
  Stop();
  thread_.request_stop();
}

absl::StatusOr<std::shared_ptr<LiveCalls::Call>> LiveCalls::Begin(
    const std::string& request_id, const grpc::ServerContext* client) {
  MutexLock lock(mutex_);
  if (stopping_) return MakeError(Reason::kCancelled, "the gateway is stopping");
  if (calls_.size() >= kCallsMax) {
    return MakeError(Reason::kQueueFull, fmt::format("{} requests are being answered", kCallsMax),
                     {}, "try again later");
  }
  auto call = std::make_shared<Call>();
  call->id = request_id.empty() ? RandomHex(12) : request_id;
  call->client = client;
  if (!calls_.emplace(call->id, call).second) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("a request with the id '{}' is being answered", call->id), {},
                     "use a new request_id");
  }
  return call;
}

absl::StatusOr<std::shared_ptr<LiveCalls::Call>> LiveCalls::TakeOver(
    const std::string& request_id, const grpc::ServerContext* client) {
  {
    MutexLock lock(mutex_);
    const auto it = calls_.find(request_id);
    if (it != calls_.end()) {
      Cancel(*it->second, MakeError(Reason::kBusy, "a later stream took this request up"));
      calls_.erase(it);
    }
  }
  return Begin(request_id, client);
}

void LiveCalls::End(const Call& call) {
  MutexLock lock(mutex_);
  const auto it = calls_.find(call.id);
  if (it != calls_.end() && it->second.get() == &call) calls_.erase(it);
}

void LiveCalls::Open(Call& call, const v1::ModelInfo& model, grpc::ClientContext* engine) {
  MutexLock lock(mutex_);
  call.model = model;
  call.engines.push_back(engine);
  if (!call.ended.ok()) engine->TryCancel();
}

absl::Status LiveCalls::Close(Call& call) {
  MutexLock lock(mutex_);
  call.engines.clear();
  return call.ended;
}

absl::Status LiveCalls::Resume(Call& call) {
  MutexLock lock(mutex_);
  if (!call.ended.ok() && ReasonOf(call.ended) == Reason::kGroupLost) call.ended = absl::OkStatus();
  if (call.ended.ok() && call.client->IsCancelled()) {
    call.ended = MakeError(Reason::kCancelled, "the client hung up");
  }
  return call.ended;
}

void LiveCalls::Cancel(Call& call, const absl::Status& why) {
  if (!call.ended.ok()) return;
  call.ended = why;
  for (grpc::ClientContext* engine : call.engines) engine->TryCancel();
}

bool LiveCalls::Abort(const std::string& request_id) {
  MutexLock lock(mutex_);
  const auto it = calls_.find(request_id);
  if (it == calls_.end()) return false;
  Cancel(*it->second, MakeError(Reason::kCancelled, "the request was aborted"));
  return true;
}

void LiveCalls::Stop() {
  MutexLock lock(mutex_);
  stopping_ = true;
  for (auto& [id, call] : calls_) {
    Cancel(*call, MakeError(Reason::kCancelled, "the gateway is stopping"));
  }
  changed_.NotifyAll();
}

size_t LiveCalls::size() const {
  MutexLock lock(mutex_);
  return calls_.size();
}

void LiveCalls::Watch(const std::stop_token& stop) {
  MutexLock lock(mutex_);
  std::string last;  // that was looked at; the next round goes on after it
  while (!stop.stop_requested()) {
    auto next = calls_.upper_bound(last);
    for (size_t i = 0; i < std::min(kLooksMax, calls_.size()); ++i, ++next) {
      if (next == calls_.end()) next = calls_.begin();
      last = next->first;
      Call& call = *next->second;
      if (!call.engines.empty() && call.client->IsCancelled()) {
        Cancel(call, MakeError(Reason::kCancelled, "the client hung up"));
      }
    }
    for (auto& [id, call] : calls_) {
      if (!call->engines.empty() && !models_->StillServing(call->model)) {
        Cancel(*call,
               MakeError(Reason::kGroupLost,
                         fmt::format("the group that served '{}' is gone", call->model.model_id()),
                         {}, "send the request again"));
      }
    }
    changed_.WaitFor(mutex_, kWatchInterval);
  }
}

absl::Status LeaderStatus(const grpc::Status& status) {
  const absl::Status converted = FromGrpc(status);
  if (converted.ok() || ReasonOf(converted) != Reason::kUnreachable) return converted;
  return MakeError(Reason::kGroupLost,
                   fmt::format("the leader rank does not answer ({})", status.error_message()), {},
                   "send the request again");
}

}  // namespace octavo
