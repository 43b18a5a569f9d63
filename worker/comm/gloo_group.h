#pragma once

// Ranks that are processes, on one host or several, over Gloo's TCP transport. The only files that
// see Gloo are this one's .cc and its exceptions end there.

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"

namespace octavo {

// How the ranks find each other: a key-value exchange that all of them reach (the coordinator).
// `get` waits for the key for at most `timeout` and returns kGroupLost or kCancelled otherwise.
struct Rendezvous {
  std::function<absl::Status(const std::string& key, const std::string& value)> put;
  std::function<absl::StatusOr<std::string>(const std::string& key,
                                            std::chrono::milliseconds timeout)>
      get;
};

struct GlooOptions {
  int rank = 0;
  int size = 1;
  std::string host;  // the local address (or name) at which peers reach this process
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(20);
};

// Connects every rank to every other; returns when all are. Errors: kGroupLost naming the cause.
// Abort on the result may come from any thread; while connecting, failing `get` ends the attempt.
absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooGroup(const GlooOptions& options,
                                                            Rendezvous rendezvous);

}  // namespace octavo
