#pragma once

// A gRPC server with what every program of Octavo offers: the given services, grpc.health.v1 (Check
// and Watch), reflection v1alpha and v1, message size limits, keep-alive, and a reason with every
// failure (bare_status.h).

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class Service;
}

namespace octavo {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // host:port; port 0: any free one
};

class RpcServer {
 public:
  // Serves `services`, which outlive the server. They check the token themselves (auth.h). kUsage
  // where the address is malformed or taken.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const ServerOptions& options,
                                                          std::span<grpc::Service* const> services);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  // "host:port" as bound.
  const std::string& address() const { return address_; }

  // What grpc.health.v1 says of one service ("octavo.v1.Inference"), or of all of them with "".
  // Everything is SERVING from the start.
  void SetServing(const std::string& service, bool serving);

  // Waits until no call is in flight, at most `grace`; then takes no more and cancels what is left.
  // Connections without a call are not waited for. The destructor calls it with no grace.
  void Stop(std::chrono::milliseconds grace);

 private:
  RpcServer();
  struct State;
  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace octavo
