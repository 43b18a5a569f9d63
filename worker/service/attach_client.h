#pragma once

// This worker's line to the coordinator: dials for ever with backoff, says Hello, beats on a thread
// of its own, hands directives on, and says when a lease begins and ends.

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "octavo/v1/cluster.pb.h"

namespace octavo {

class AttachClient {
 public:
  struct Options {
    std::string coordinator;  // host:port
    std::string token;
    v1::Hello hello;
  };
  // Called one at a time, from threads of the client; they must not block for long, and must not
  // destroy the client.
  struct Handlers {
    // The coordinator's Welcome came: a lease begins.
    std::function<void()> attached;
    // The stream ended, and so did the lease. kFenced: this process slept through it, or the
    // coordinator said so; otherwise the coordinator is gone, as far as one can tell.
    std::function<void(const absl::Status& why)> detached;
    // A beat came back so long after it was sent. May be empty.
    std::function<void(std::chrono::nanoseconds)> echoed;
    // Everything but Welcome and the echoes of beats.
    std::function<void(v1::Directive)> directive;
    // Dialing again is no use (wrong token): the worker should exit with this.
    std::function<void(absl::Status)> fatal;
  };

  AttachClient(Options options, Handlers handlers);
  ~AttachClient();  // as Stop

  // Begins to dial. Once.
  void Start();
  // Hangs up; no handler is called any more when this returns, and Send drops everything.
  void Stop();

  // Dropped when there is no lease. Thread-safe.
  void Send(const v1::Report& report);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octavo
