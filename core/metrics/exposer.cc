#include "core/metrics/exposer.h"

#include <exception>
#include <vector>

#include "core/base/error.h"
#include "core/metrics/state.h"
#include "fmt/format.h"
#include "prometheus/exposer.h"

namespace octavo {
namespace {

// Reads the memory figures before every scrape.
class Collector final : public prometheus::Collectable {
 public:
  Collector(Metrics* metrics, std::shared_ptr<prometheus::Registry> registry)
      : metrics_(metrics), registry_(std::move(registry)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    metrics_->UpdateMemory();
    return registry_->Collect();
  }

 private:
  Metrics* metrics_;
  std::shared_ptr<prometheus::Registry> registry_;
};

}  // namespace

struct Exposer::State {
  std::shared_ptr<Collector> collector;  // shared: the server holds a weak reference
  std::unique_ptr<prometheus::Exposer> server;
};

Exposer::Exposer() : state_(std::make_unique<State>()) {}
Exposer::~Exposer() = default;

absl::StatusOr<std::unique_ptr<Exposer>> Exposer::Start(Metrics* metrics,
                                                        const std::string& address) {
  std::unique_ptr<Exposer> exposer(new Exposer());
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return MakeError(Reason::kUsage, fmt::format("'{}' is not host:port", address));
  }
  try {
    exposer->state_->server = std::make_unique<prometheus::Exposer>(address, 2);
  } catch (const std::exception& error) {
    return MakeError(Reason::kUsage,
                     fmt::format("cannot serve metrics on {}: {}", address, error.what()), {},
                     "Choose a free port, or port 0 for any");
  }
  exposer->state_->collector = std::make_shared<Collector>(metrics, metrics->state_->registry);
  exposer->state_->server->RegisterCollectable(exposer->state_->collector);
  exposer->address_ = fmt::format("{}:{}", address.substr(0, colon), exposer->port());
  return exposer;
}

int Exposer::port() const {
  const std::vector<int> ports = state_->server->GetListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

}  // namespace octavo
