#pragma once

// How many calls a server has in flight. gRPC's own shutdown waits for connections too, and an idle
// client answers that its server goes only after seconds: a server without calls need not wait.

#include <chrono>
#include <memory>

namespace grpc::experimental {
class ServerInterceptorFactoryInterface;
}

namespace octavo {

class CallCount {
 public:
  CallCount();
  ~CallCount();
  CallCount(const CallCount&) = delete;
  CallCount& operator=(const CallCount&) = delete;

  // For the server's builder; counts from then on, also when this object is gone.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Counter() const;
  // Until no call is in flight; false when `timeout` passed first. From any thread.
  bool AwaitNone(std::chrono::milliseconds timeout) const;

  struct State;

 private:
  const std::shared_ptr<State> state_;
};

}  // namespace octavo
