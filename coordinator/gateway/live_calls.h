#pragma once

// The requests being answered now. A watch ends those that nobody wants any more or that cannot go
// on: the client hung up, Abort was called, the group behind the model is gone, the gateway stops.

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/router/model_table.h"
#include "core/base/mutex.h"

namespace grpc {
class ClientContext;
class ServerContext;
class Status;
}  // namespace grpc

namespace octavo {

class LiveCalls {
 public:
  static constexpr size_t kCallsMax = 1024;

  explicit LiveCalls(const ModelTable* models);
  ~LiveCalls();

  struct Call;
  // Takes a request in. An empty id draws one. Errors: kBadRequest (the id is being used),
  // kQueueFull, kCancelled (stopping).
  absl::StatusOr<std::shared_ptr<Call>> Begin(const std::string& request_id,
                                              const grpc::ServerContext* client);
  // As Begin, for a client that takes up a request: one with this id that still runs ends with
  // kBusy. REQUIRES an id.
  absl::StatusOr<std::shared_ptr<Call>> TakeOver(const std::string& request_id,
                                                 const grpc::ServerContext* client);
  void End(const Call& call);

  // From here to Close, the watch may cancel `engine`, a call to the leader of `model`; there may
  // be several to the same.
  void Open(Call& call, const v1::ModelInfo& model, grpc::ClientContext* engine);
  // Why the watch cancelled them; OK if it did not.
  absl::Status Close(Call& call);

  // Between Close and the next Open: forgets that a group was lost. What else ended the call, if
  // anything did; a client that hung up is kCancelled.
  absl::Status Resume(Call& call);

  // Ends the call with kCancelled. False when there is none.
  bool Abort(const std::string& request_id);
  // Ends all calls and takes no more.
  void Stop();

  size_t size() const;

 private:
  void Watch(const std::stop_token& stop);
  // REQUIRES mutex_ held.
  static void Cancel(Call& call, const absl::Status& why);

  const ModelTable* const models_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ OCTAVO_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Call>> calls_ OCTAVO_GUARDED_BY(mutex_);
  std::jthread thread_;
};

// Only LiveCalls touches what is not const.
struct LiveCalls::Call {
  std::string id;
  const grpc::ServerContext* client = nullptr;
  v1::ModelInfo model;
  std::vector<grpc::ClientContext*> engines = {};
  absl::Status ended;
};

// How a call to a leader ended. One that cannot be reached any more is a group that is gone.
absl::Status LeaderStatus(const grpc::Status& status);

}  // namespace octavo
