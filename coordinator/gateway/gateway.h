#pragma once

// What clients of a served model talk to: the Inference service. Text in, text out; tokenizing,
// chat templates, detokenizing and stop strings happen here, and the leader rank sees token ids
// only. Stateless but for a cache of tokenizer files, which it fetches from the leader by digest.

#include <memory>
#include <string>

#include "coordinator/router/model_table.h"

namespace grpc {
class Service;
}

namespace octavo {

class Metrics;

class Gateway {
 public:
  // `token` authenticates the gateway to workers (empty: none). `models` and `metrics` outlive it.
  Gateway(const ModelTable* models, Metrics* metrics, const std::string& token);
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
