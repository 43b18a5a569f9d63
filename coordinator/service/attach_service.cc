#include "coordinator/service/attach_service.h"

#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <utility>

#include "coordinator/control/control.h"
#include "coordinator/control/worker_client.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/rpc/status.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

// A worker that does not read this many directives is beyond help.
constexpr size_t kDirectivesMax = 8192;
constexpr std::chrono::seconds kHelloTimeout{5};
constexpr milliseconds kPoll{200};

// Outlives the call in Control's hands; after Finish it drops everything.
class StreamClient final : public WorkerClient {
 public:
  explicit StreamClient(grpc::ServerContext* context) : context_(context) {}

  void Send(const v1::Directive& directive) override {
    MutexLock lock(mutex_);
    if (closed_) return;
    if (queue_.size() >= kDirectivesMax) {
      CloseLocked(MakeError(Reason::kFenced, "the worker does not read its directives"));
      return;
    }
    queue_.push_back(directive);
    changed_.NotifyAll();
  }

  void Close(const absl::Status& why) override {
    MutexLock lock(mutex_);
    CloseLocked(why);
  }

  // The writer's loop; returns when the stream is closed or `stop` is set.
  void WriteLoop(AttachService::Stream* stream, const std::atomic<bool>& stop) {
    const auto deadline = std::chrono::steady_clock::now() + kHelloTimeout;
    while (true) {
      v1::Directive next;
      {
        MutexLock lock(mutex_);
        while (queue_.empty() && !closed_) {
          changed_.WaitFor(mutex_, kPoll);
          if (stop) CloseLocked(MakeError(Reason::kUnreachable, "the coordinator stops"));
          if (!greeted_ && std::chrono::steady_clock::now() > deadline) {
            CloseLocked(MakeError(Reason::kBadRequest, "no Hello came"));
          }
        }
        if (closed_) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      if (!stream->Write(next)) return;  // the reader sees the end too
    }
  }

  void Greeted() {
    MutexLock lock(mutex_);
    greeted_ = true;
  }

  // The call ends: the context is not touched any more. Why it ended, if this side closed it.
  absl::Status Finish() {
    MutexLock lock(mutex_);
    CloseLocked(absl::OkStatus());
    context_ = nullptr;
    return why_;
  }

 private:
  // Cancelling wakes the reader and a writer that waits for a window.
  void CloseLocked(const absl::Status& why) {
    if (closed_) return;
    closed_ = true;
    why_ = why;
    queue_.clear();
    if (!why.ok() && context_ != nullptr) context_->TryCancel();
    changed_.NotifyAll();
  }

  Mutex mutex_;
  CondVar changed_;
  grpc::ServerContext* context_ OCTAVO_GUARDED_BY(mutex_);
  std::deque<v1::Directive> queue_ OCTAVO_GUARDED_BY(mutex_);
  bool greeted_ OCTAVO_GUARDED_BY(mutex_) = false;
  bool closed_ OCTAVO_GUARDED_BY(mutex_) = false;
  absl::Status why_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace

grpc::Status AttachService::Attach(grpc::ServerContext* context, Stream* stream) {
  if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
  auto client = std::make_shared<StreamClient>(context);
  std::thread writer([&] { client->WriteLoop(stream, stopping_); });
  absl::Status status;
  v1::Report report;
  if (stream->Read(&report)) {
    client->Greeted();
    absl::StatusOr<uint64_t> session =
        report.has_hello() ? control_->Join(report.hello(), client)
                           : MakeError(Reason::kBadRequest, "the first report must be Hello");
    if (session.ok()) {
      while (stream->Read(&report)) control_->OnReport(*session, std::move(report));
      control_->Leave(*session);
    } else {
      status = session.status();
    }
  }
  const absl::Status closed = client->Finish();
  writer.join();
  return ToGrpc(status.ok() ? closed : status);
}

}  // namespace octavo
