#pragma once

// The Engine service of a worker: the gateway calls it on the leader rank, the leader on its
// followers. Token ids only.

#include <memory>
#include <string>

#include "core/metrics/metrics.h"
#include "worker/serve/rank_host.h"

namespace grpc {
class Service;
}

namespace octavo {

// Both outlive the service. `token`: what callers must present (empty: nothing).
std::unique_ptr<grpc::Service> MakeEngineService(RankHost* host, Metrics* metrics,
                                                 const std::string& token);

}  // namespace octavo
