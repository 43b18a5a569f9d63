#include "core/rpc/call_count.h"

#include <utility>

#include "core/base/mutex.h"
#include "grpcpp/support/server_interceptor.h"

namespace octavo {

using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;
using SteadyClock = std::chrono::steady_clock;

struct CallCount::State {
  void Add(int change) {
    MutexLock lock(mutex);
    calls += change;
    if (calls == 0) none.NotifyAll();
  }

  Mutex mutex;
  CondVar none;
  int calls OCTAVO_GUARDED_BY(mutex) = 0;
};

namespace {

// gRPC makes one for every call and destroys it with the call.
class Counted final : public Interceptor {
 public:
  explicit Counted(std::shared_ptr<CallCount::State> state) : state_(std::move(state)) {
    state_->Add(1);
  }
  ~Counted() override { state_->Add(-1); }
  void Intercept(InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  const std::shared_ptr<CallCount::State> state_;
};

class CounterFactory final : public ServerInterceptorFactoryInterface {
 public:
  explicit CounterFactory(std::shared_ptr<CallCount::State> state) : state_(std::move(state)) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo*) override { return new Counted(state_); }

 private:
  const std::shared_ptr<CallCount::State> state_;
};

}  // namespace

CallCount::CallCount() : state_(std::make_shared<State>()) {}
CallCount::~CallCount() = default;

std::unique_ptr<ServerInterceptorFactoryInterface> CallCount::Counter() const {
  return std::make_unique<CounterFactory>(state_);
}

bool CallCount::AwaitNone(std::chrono::milliseconds timeout) const {
  const auto end = SteadyClock::now() + timeout;
  MutexLock lock(state_->mutex);
  while (state_->calls > 0) {
    const auto left = end - SteadyClock::now();
    if (left.count() <= 0) return false;
    state_->none.WaitFor(state_->mutex, left);
  }
  return true;
}

}  // namespace octavo
