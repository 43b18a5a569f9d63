#pragma once

// What clients of a served model talk to: the Inference service. Text in, text out; tokenizing,
// chat templates, detokenizing and stop strings happen here, and the leader rank sees token ids
// only. Stateless but for a cache of tokenizer files, which it fetches from the leader by digest.

#include <chrono>
#include <memory>
#include <string>

#include "coordinator/router/model_table.h"

namespace grpc {
class Service;
}

namespace octavo {

class Metrics;

// How long requests wait.
struct StreamPatience {
  std::chrono::milliseconds group{30'000};  // for a group that forms again or can be reached again
  // A group that is still said to serve this long after it could not be reached is asked again.
  std::chrono::milliseconds same_group{2'000};
  // A group may have refused requests so long before the gateway hears which one took its place.
  std::chrono::milliseconds handover{2'000};
  // Young gateways may not know all workers yet: those of a coordinator that died dial again.
  std::chrono::milliseconds attach{5'000};
};

class Gateway {
 public:
  // `token` authenticates the gateway to workers (empty: none). `models` and `metrics` outlive it.
  Gateway(const ModelTable* models, Metrics* metrics, const std::string& token,
          const StreamPatience& patience = {});
  ~Gateway();

  // To be registered with the server; lives as long as the gateway.
  grpc::Service* service();

  // Ends every request in flight with kCancelled; call before the server shuts down.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octavo
