#pragma once

// Ranks that are processes: how they find each other, and which Communicator they take. Through
// memory (host_group.h) where all of them can map the same, else through sockets (gloo_group.h).
// The bits of a model do not depend on it.

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"

namespace octavo {

// A key-value exchange that all ranks reach (the coordinator). `get` waits for the key for at most
// `timeout` and returns kGroupLost or kCancelled otherwise.
struct Rendezvous {
  std::function<absl::Status(const std::string& key, const std::string& value)> put;
  std::function<absl::StatusOr<std::string>(const std::string& key,
                                            std::chrono::milliseconds timeout)>
      get;
};

enum class Collectives {
  kAuto,  // memory where possible
  kTcp,   // sockets always; the same on every rank, or no rank gets memory
};

struct GroupOptions {
  int rank = 0;
  int size = 1;
  std::string host = "127.0.0.1";  // the local address (or name) at which peers reach this process
  Collectives collectives = Collectives::kAuto;
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(20);
};

// Connects every rank to every other; returns when all are. Errors: kGroupLost naming the cause.
// Abort on the result may come from any thread; while connecting, failing `get` ends the attempt.
absl::StatusOr<std::unique_ptr<Communicator>> MakeProcessGroup(const GroupOptions& options,
                                                               const Rendezvous& rendezvous);

}  // namespace octavo
