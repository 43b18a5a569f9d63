#pragma once

// GET /metrics over HTTP, for Prometheus.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/metrics/metrics.h"

namespace octavo {

class Exposer {
 public:
  // Listens on "host:port" (port 0: any free one). `metrics` outlives it. Memory figures are read
  // at every scrape. kUsage where the address is malformed or taken.
  static absl::StatusOr<std::unique_ptr<Exposer>> Start(Metrics* metrics,
                                                        const std::string& address);
  ~Exposer();
  Exposer(const Exposer&) = delete;
  Exposer& operator=(const Exposer&) = delete;

  int port() const;
  // "host:port" as bound.
  const std::string& address() const { return address_; }

 private:
  Exposer();
  struct State;
  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace octavo
