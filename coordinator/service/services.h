#pragma once

// The coordinator's gRPC services over Control: Coordinator (Attach), Cluster, Jobs, Models.

#include <memory>
#include <string>
#include <vector>

namespace grpc {
class Service;
}

namespace octavo {

class Control;

class CoordinatorServices {
 public:
  // `control` outlives it. Every call must carry `token` (empty: none).
  CoordinatorServices(Control* control, std::string token);
  ~CoordinatorServices();

  // To be registered with the server; they live as long as this.
  std::vector<grpc::Service*> services();

  // Ends all streams; call before the server stops.
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
